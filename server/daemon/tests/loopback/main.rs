//! The real program on loopback: its flags, its start, its exit, its log, seen from outside.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod client;
mod control;
mod exit;
mod flags;
mod handed_over;
mod log;
mod program;
mod repository;
mod start;
