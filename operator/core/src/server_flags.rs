//! Flags of tritonserver that its own words advise. On a cluster a server gets them from its resource, so it is said where they stand.

/// Flags that the server's words name as a cure.
const ADVISED: [&str; 13] = [
    "allow-client-shm",
    "backend-config",
    "backend-directory",
    "cache-config",
    "cache-directory",
    "cuda-memory-pool-byte-size",
    "disable-auto-complete-config",
    "host-policy",
    "metrics-config",
    "model-config-name",
    "pinned-memory-pool-byte-size",
    "rate-limit",
    "trace-config",
];

/// Where a flag of a server stands.
const PLACE: &str = " (in spec.server.extraArgs of the TritonServer)";

/// What a server said, with the place of the first flag that it advises.
pub fn with_place(words: &str) -> String {
    let advised = words.match_indices("--").find_map(|(at, _)| {
        let flag = &words[at + 2..];
        let name = flag.find(|c: char| !c.is_ascii_lowercase() && c != '-').map_or(flag, |end| &flag[..end]);
        let written = flag.find(char::is_whitespace).map_or(flag, |end| &flag[..end]);
        let written = written.trim_end_matches(['.', ',', ';', ':', ')', '\'', '"']);
        ADVISED.contains(&name).then_some(at + 2 + written.len())
    });
    match advised {
        Some(end) => format!("{}{PLACE}{}", &words[..end], &words[end..]),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_said_with_its_place_once() {
        for (words, expect) in [
            (
                "the server has none: give it one with --cache-config",
                "the server has none: give it one with --cache-config (in spec.server.extraArgs of the TritonServer)",
            ),
            (
                "not found; --backend-config=onnxruntime,library=PATH or --backend-config=x, or ORT_DYLIB_PATH",
                "not found; --backend-config=onnxruntime,library=PATH (in spec.server.extraArgs of the TritonServer) or \
                 --backend-config=x, or ORT_DYLIB_PATH",
            ),
            (
                "(see '--rate-limit'), größe",
                "(see '--rate-limit (in spec.server.extraArgs of the TritonServer)'), größe",
            ),
            ("pip wants --no-index -- and --find-links", "pip wants --no-index -- and --find-links"),
            ("", ""),
        ] {
            assert_eq!(with_place(words), expect);
        }
    }
}
