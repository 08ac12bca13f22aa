//! What Vertex AI says in the environment of a container, as flags.
//!
//! Source: Vertex AI, "Custom container requirements" (`AIP_` variables); which of them Triton acts on.

/// The flags that the environment stands for, of a command line with these words: they come before it, so that its own win.
pub(super) fn flags(variable: impl Fn(&str) -> Option<String>, words: &[String]) -> Vec<String> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let mut flags = Vec::new();
    let is_prediction = variable("AIP_MODE").is_some_and(|mode| mode == "PREDICTION");
    if is_prediction {
        // the one port that Vertex AI knows, and no other that could be in its way
        flags.extend(["--allow-vertex-ai=true", "--allow-http=false", "--allow-grpc=false"].map(str::to_owned));
    }
    // elsewhere a variable of that name may be anybody's
    if let Some(port) = variable("AIP_HTTP_PORT").filter(|port| is_prediction || port.parse::<u16>().is_ok()) {
        flags.push(format!("--vertex-ai-port={port}"));
    }
    let is_repository = |word: &String| word.starts_with("--model-repository") || word.starts_with("--model-store");
    if let Some(uri) = variable("AIP_STORAGE_URI").filter(|_| !words.iter().any(is_repository)) {
        flags.push(format!("--model-repository={uri}"));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], words: &[&str], expect: &[&str]) {
        let variable = |name: &str| variables.iter().find(|it| it.0 == name).map(|it| it.1.to_owned());
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(flags(variable, &words), expect);
    }

    #[test]
    fn vertex_ai_says_where_it_asks() {
        check(&[], &[], &[]);
        let all = [("AIP_MODE", "PREDICTION"), ("AIP_HTTP_PORT", "9000"), ("AIP_STORAGE_URI", "gs://b/models")];
        let mode = ["--allow-vertex-ai=true", "--allow-http=false", "--allow-grpc=false"];
        let port = "--vertex-ai-port=9000";
        check(&all, &["--model-repository", "/m"], &[&mode[..], &[port]].concat());
        check(&all, &["--model-store=/m"], &[&mode[..], &[port]].concat());
        check(&all, &[], &[&mode[..], &[port, "--model-repository=gs://b/models"]].concat());
        check(&[("AIP_MODE", "TRAINING"), ("AIP_HTTP_PORT", "9000")], &[], &[port]);
        check(&[("AIP_HTTP_PORT", "x"), ("AIP_STORAGE_URI", "gs://b")], &[], &["--model-repository=gs://b"]);
        check(&[("AIP_STORAGE_URI", "gs://b")], &["--model-repository=/m"], &[]);
        check(
            &[("AIP_MODE", "PREDICTION"), ("AIP_HTTP_PORT", "x")],
            &[],
            &[&mode[..], &["--vertex-ai-port=x"]].concat(),
        );
        check(&[("AIP_MODE", "")], &[], &[]);
    }
}
