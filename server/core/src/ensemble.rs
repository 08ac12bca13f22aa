//! Ensembles: models connected by tensors, run as one model. [`Graph`] is compiled once per load from the ensemble's
//! configuration and the interfaces of the models it is made of; [`Progress`] is the state of one request: it says which
//! steps may run, is told what they answered, and gives the ensemble's own responses. Who runs the steps, and when, is the
//! caller's business: nothing here waits, and nothing here copies the bytes of a tensor.

mod adapt;
mod check;
mod decoupled;
mod graph;
#[cfg(test)]
mod graph_tests;
mod members;
mod places;
#[cfg(test)]
mod places_tests;
mod progress;
#[cfg(test)]
mod progress_tests;
mod run;
mod sequence;
mod state;
#[cfg(test)]
mod testing;
mod values;

pub use self::{
    graph::Graph,
    members::{Member, Members, circular, step_models},
    places::{Asker, Places, Turn, Wakers},
    progress::{MAX_RUNS_PER_STEP, Progress},
    run::{Run, StepInputs},
};
