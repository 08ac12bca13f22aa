//! In front of the server: reads which models it shall start with and becomes it. The pod's template names no model, so
//! that no pod is replaced when models change; here is where their names come in.

use std::{collections::BTreeSet, ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::Context;

use super::{args::LaunchArgs, startup};

/// Never returns if all goes well: the process is the server from then on.
pub(crate) fn become_server(args: &LaunchArgs) -> anyhow::Result<()> {
    let models = startup::noted(&args.root)
        .with_context(|| format!("the agent has noted no models to start with below {}", args.root.display()))?;
    let (program, flags) = args.command.split_first().context("no server given")?;
    let error = Command::new(program).args(with_models(flags, &models)).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn with_models(flags: &[OsString], models: &BTreeSet<String>) -> Vec<OsString> {
    let models = models.iter().map(|name| format!("--load-model={name}").into());
    flags.iter().cloned().chain(models).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_of_the_set_is_asked_for_by_name() {
        let models = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let flags = with_models(&["--model-control-mode=explicit".into()], &models);
        assert_eq!(flags, ["--model-control-mode=explicit", "--load-model=a", "--load-model=b"]);
    }

    #[test]
    fn without_an_agent_nothing_is_started() {
        let root = tempfile::tempdir().unwrap();
        let args = LaunchArgs { root: root.path().to_owned(), command: vec!["/bin/true".into()] };
        let error = become_server(&args).unwrap_err();
        assert!(format!("{error:#}").contains("the agent has noted no models"), "{error:#}");
    }
}
