//! The agent as a program in a pod: it follows the manifest's file, says over HTTP where everything stands, and notes for
//! the server which models it shall start with. What is done about models is the library's.

mod adopts;
pub(crate) mod args;
pub(crate) mod health;
mod http;
pub(crate) mod launch;
mod notices;
mod replica_slot;
pub(crate) mod run;
mod startup;
