//! Model repositories on object stores: S3, Google Cloud Storage, Azure Storage. A model is kept as a folder on this machine,
//! brought up to date when it is asked for. Knows nothing of models but that folders of digits are versions, and nothing of
//! the server.

#![forbid(unsafe_code)]

mod aws_profile;
mod client;
mod connect;
mod credentials;
mod error;
mod fetch;
mod latest;
mod limits;
mod listing;
mod location;
mod mirror;
mod objects;
mod repository;
mod snapshot;

pub use self::{
    connect::Transport,
    credentials::Variables,
    error::RepositoryError,
    limits::Limits,
    location::{Location, LocationError},
    objects::Objects,
    repository::{RemoteModel, RemoteRepository},
    snapshot::Snapshot,
};
