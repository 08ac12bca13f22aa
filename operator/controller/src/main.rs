//! The operator program. Here the command line is read and one command begun; each command has a module of its own.

#![forbid(unsafe_code)]

mod activator;
mod activators;
mod apply;
mod args;
mod ask;
mod client;
mod config_maps;
mod context;
mod dereference;
mod events;
mod external_scaler;
mod failure;
mod health;
mod keep_alive;
mod leader;
mod listen;
mod load_args;
mod long_poll;
mod metrics;
mod metrics_api;
mod observer;
mod pods;
mod queue;
mod reconcile;
mod rewrites;
mod run;
mod scale;
mod scrape;
mod secrets;
mod stdout;
mod telemetry;
mod traces;
mod up;
mod watches;
mod write_status;
mod written;
mod zero;

use std::{io::Write, process::ExitCode};

use args::Command;
use clap::Parser;

fn main() -> ExitCode {
    let done = match args::Cli::parse().command {
        Command::Run(args) => run::run(*args),
        Command::Up(args) => up::run(*args),
        Command::Activator(args) => activator::run(*args),
        Command::Crds => stdout::print(&crds::definition::yaml()),
        Command::Ask(args) => ask::run(&args),
        Command::Child(args) => up::child::become_server(&args),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {error:#}"); // nobody is left to report to
        ExitCode::FAILURE
    })
}
