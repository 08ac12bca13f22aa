//! Model configurations: text and JSON in and out, completed, normalised, verified.

pub use server_proto::inference::ModelConfig;
