//! Stands in for everything around an operator but its API server, so that its speed and memory can be measured with many servers on one
//! machine: pods that are objects only and answer as agents do, resources by the thousand, changes, and how long each took to have its effect.
//!
//! Each command speaks to the cluster of `KUBECONFIG`. What is measured is printed as one line of JSON.

mod agent;
mod changes;
mod fill;
mod pods;
mod settled;

use std::io::Write as _;

use clap::{Parser, Subcommand};
use kube::Client;

/// Pretends to be the pods of many servers, and their users.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be the pods of every Deployment of the operator, until ended
    Pods(pods::PodsArgs),
    /// Make servers and models
    Fill(fill::Shape),
    /// Wait until every server and model is what its spec asks for
    Settled(settled::SettledArgs),
    /// Change models, and measure how long each change takes to be in its server's manifest
    Changes(changes::ChangesArgs),
}

fn main() -> anyhow::Result<()> {
    let command = Cli::parse().command;
    e2e::runtime()?.block_on(async {
        let client = Client::try_default().await?;
        match command {
            Command::Pods(args) => pods::run(client, args).await,
            Command::Fill(shape) => fill::run(client, shape).await,
            Command::Settled(args) => settled::run(client, args).await,
            Command::Changes(args) => changes::run(client, args).await,
        }
    })
}

/// One line of what was measured.
fn print(measured: &serde_json::Value) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{measured}")
}

/// Label of everything that the operator makes.
fn made_by_operator() -> kube::runtime::watcher::Config {
    let labels = format!("app.kubernetes.io/managed-by={}", operator_core::labels::MANAGER);
    kube::runtime::watcher::Config::default().labels(&labels)
}
