//! What the server tells of itself when it starts: agents and backends that it has, and the options that hold, in tables as
//! Triton's log has them.

use std::collections::BTreeMap;

use server_core::{backend::Settings, interface::EXTENSIONS};

use crate::{
    args::{Args, ControlMode, RateLimit},
    table::table,
};

/// Where agents and backends lie that are part of the program.
const BUILT_IN: &str = "built in";

/// Agents that a configuration may name.
pub(crate) fn agents() -> String {
    table(["Repository Agent", "Path"], &[["checksum".to_owned(), BUILT_IN.to_owned()]])
}

/// Backends, with the settings that each is given.
pub(crate) fn backends(settings: &BTreeMap<String, Settings>) -> String {
    let row = |name: &&str| {
        let settings: serde_json::Map<_, _> = settings
            .get(*name)
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str())))
            .collect();
        [(*name).to_owned(), BUILT_IN.to_owned(), serde_json::json!({ "cmdline": settings }).to_string()]
    };
    table(["Backend", "Path", "Config"], &server_backends::NAMES.iter().map(row).collect::<Vec<_>>())
}

/// The options that most questions about a running server are about.
pub(crate) fn options(args: &Args) -> String {
    let models = &args.models;
    let flag = |on: bool| if on { "1" } else { "0" }.to_owned();
    let mut rows = vec![
        ("server_id".to_owned(), args.id.clone()),
        ("server_version".into(), env!("CARGO_PKG_VERSION").to_owned()),
        ("server_extensions".into(), EXTENSIONS.join(" ")),
    ];
    let folders = models.repositories.iter().map(|path| path.display().to_string());
    let remote = models.remote_repositories.iter().map(ToString::to_string);
    let paths = folders.chain(remote).enumerate();
    rows.extend(paths.map(|(index, path)| (format!("model_repository_path[{index}]"), path)));
    let control_mode = match models.control_mode {
        ControlMode::None => "MODE_NONE",
        ControlMode::Poll => "MODE_POLL",
        ControlMode::Explicit => "MODE_EXPLICIT",
    };
    rows.push(("model_control_mode".into(), control_mode.into()));
    let startup_models = models.startup_models.iter().enumerate();
    rows.extend(startup_models.map(|(index, name)| (format!("startup_models_{index}"), name.clone())));
    let rate_limit = match models.rate_limit {
        RateLimit::Off => "OFF",
        RateLimit::ExecutionCount => "EXEC_COUNT",
    };
    rows.extend([
        ("strict_model_config".into(), flag(models.disable_auto_complete || models.strict_config)),
        ("model_config_name".into(), models.config_name.clone().unwrap_or_default()),
        ("rate_limit".into(), rate_limit.into()),
        ("strict_readiness".into(), flag(models.strict_readiness)),
        ("exit_timeout".into(), args.exit_timeout.as_secs().to_string()),
    ]);
    table(["Option", "Value"], &rows.into_iter().map(<[String; 2]>::from).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_as_triton_tells_them() {
        let mut args = Args { id: "s1".into(), ..Args::default() };
        args.models.repositories = ["/b".into(), "/a".into()].into();
        args.models.control_mode = ControlMode::Explicit;
        args.models.startup_models = ["m".to_owned()].into();
        let lines: Vec<String> = options(&args)
            .lines()
            .filter(|line| line.starts_with('|') && !line.contains("server_"))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "| Option | Value |",
            "| model_repository_path[0] | /a |",
            "| model_repository_path[1] | /b |",
            "| model_control_mode | MODE_EXPLICIT |",
            "| startup_models_0 | m |",
            "| strict_model_config | 0 |",
            "| model_config_name | |",
            "| rate_limit | OFF |",
            "| strict_readiness | 1 |",
            "| exit_timeout | 30 |",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn backends_are_told_with_their_settings() {
        let settings =
            BTreeMap::from([("python".to_owned(), BTreeMap::from([("a".to_owned(), "say \"b\"".to_owned())]))]);
        let table = backends(&settings);
        assert!(table.contains(r#"{"cmdline":{"a":"say \"b\""}}"#), "{table}");
        assert_eq!(table.lines().count(), server_backends::NAMES.len() + 4, "all of them, and the frame");
    }
}
