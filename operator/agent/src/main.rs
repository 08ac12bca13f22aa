//! The agent's program, in the pod of a server: `run` beside the server, `launch` in front of it, `health` for the kubelet. Here the command line is
//! read and one command begun; each has a module of its own.

#![forbid(unsafe_code)]

mod pod;

use std::{io::Write, process::ExitCode};

use clap::Parser;
use pod::args::{Cli, Command};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => pod::run::run(args).map(|()| ExitCode::SUCCESS),
        Command::Launch(args) => pod::launch::launch(&args),
        Command::Health(args) => pod::health::health(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}"); // nobody is left to report to
            ExitCode::FAILURE
        }
    }
}
