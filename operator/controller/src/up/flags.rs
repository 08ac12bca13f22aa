//! Flags after `--` that would keep `up` from the server it has started, as another port would: they are refused before anything
//! starts. Everything else is the user's, and comes after what `up` says itself.

/// What `up` says itself, and how to say it instead.
const OWN: [(&str, &str); 13] = [
    ("allow-http", "it is how the server is asked whether it is ready"),
    ("grpc-address", "give --address before the --"),
    ("grpc-port", "give --grpc-port before the --"),
    ("http-address", "give --address before the --"),
    ("http-port", "give --http-port before the --"),
    ("http-use-ssl", "the server is asked without TLS whether it is ready"),
    ("http-use-ssl-mutual", "the server is asked without TLS whether it is ready"),
    ("load-model", "models are those of the files"),
    ("metrics-address", "give --address before the --"),
    ("metrics-port", "give --metrics-port before the --"),
    ("model-control-mode", "models come and go as the files say"),
    ("model-repository", "models are those of the files: write a TritonModel for each"),
    ("model-store", "models are those of the files: write a TritonModel for each"),
];

/// Errors: one of the flags is not the user's to give, or is none. A sentence for each.
pub(super) fn check(flags: &[String]) -> Result<(), String> {
    let wrong: Vec<String> = flags.iter().filter_map(|flag| problem(flag)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn problem(flag: &str) -> Option<String> {
    let name = flag.strip_prefix("--")?;
    let (name, value) = name.split_once('=').unwrap_or((name, ""));
    // the server takes names that are cut short, like getopt
    let (own, cure) = OWN.iter().find(|(own, _)| !name.is_empty() && own.starts_with(name))?;
    let changes_nothing = (own.starts_with("http-use-ssl") && is_one_of(value, &["false", "0"]))
        || (*own == "allow-http" && is_one_of(value, &["true", "1"]));
    (!changes_nothing).then(|| format!("{flag}: --{own} is set by up: {cure}"))
}

fn is_one_of(value: &str, words: &[&str]) -> bool {
    words.iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(flag: &str, expect: Option<&str>) {
        assert_eq!(problem(flag).as_deref(), expect, "{flag}");
    }

    #[test]
    fn what_up_says_itself_is_refused_with_how_to_say_it() {
        check("--http-port=9991", Some("--http-port=9991: --http-port is set by up: give --http-port before the --"));
        check("--metrics-p=1", Some("--metrics-p=1: --metrics-port is set by up: give --metrics-port before the --"));
        let words = "models are those of the files: write a TritonModel for each";
        check("--model-store", Some(&format!("--model-store: --model-store is set by up: {words}")));
        assert!(problem("--allow-http=false").is_some() && problem("--http-use-ssl=true").is_some());
        let both = ["--http-port=1", "--log-verbose=1", "--load-model=a"].map(str::to_owned);
        assert_eq!(super::check(&both).unwrap_err().lines().count(), 2);
    }

    #[test]
    fn everything_else_is_the_users() {
        for flag in
            ["--log-verbose=1", "--gpu-fallback=none", "--allow-grpc=false", "--nosuch=1", "--allow-http=1", "x", "--"]
        {
            check(flag, None);
        }
    }
}
