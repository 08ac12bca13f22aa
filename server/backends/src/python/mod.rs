//! Runs Python models, each instance in a process of its own.

#![expect(dead_code, reason = "the parts that start and talk to workers come next")]

mod cache;
mod environment;
mod interpreter;
mod lines;
mod process;
mod requirements;
mod stub_files;
mod tool;
