//! The command line: what can be asked, with its defaults. What the words mean is decided where they are used.

use clap::{Parser, Subcommand};

/// Serves machine learning models: on a Kubernetes cluster, or with the same resources on one machine.
#[derive(Debug, Parser)]
#[command(name = "triton-operator", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look after the TritonServers and TritonModels of a Kubernetes cluster
    Run(Box<crate::run::RunArgs>),
    /// Stand in for the servers of a cluster that are at rest: hold their requests until they run
    Activator(Box<crate::activator::ActivatorArgs>),
    /// Bring TritonServers and TritonModels up on this machine, and keep them as the files say until Ctrl-C
    Up(Box<crate::up::UpArgs>),
    /// Print the custom resource definitions as YAML, for kubectl apply
    Crds,
    /// Ask a model that gives back what it gets until it answers (used by helm test)
    #[command(hide = true)]
    Ask(crate::ask::AskArgs),
    /// Become a server that ends with its parent (used by up)
    #[command(hide = true)]
    Child(crate::up::child::ChildArgs),
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn files_volumes_and_server_flags_are_told_apart() {
        let cli = Cli::try_parse_from([
            "triton-operator",
            "up",
            "-f",
            "a.yaml",
            "b",
            "--volume",
            "models=/data",
            "--",
            "--log-verbose=1",
        ]);
        let Command::Up(up) = cli.unwrap().command else { panic!("up was asked for") };
        assert_eq!(up.files, [PathBuf::from("a.yaml"), PathBuf::from("b")]);
        assert_eq!(up.volumes, [("models".to_owned(), PathBuf::from("/data"))]);
        assert_eq!((up.server_flags.as_slice(), up.http_port), (["--log-verbose=1".to_owned()].as_slice(), 8000));
        assert!(Cli::try_parse_from(["triton-operator", "up"]).is_err());
        assert!(Cli::try_parse_from(["triton-operator", "up", "-f", "a", "--volume", "models"]).is_err());
    }
}
