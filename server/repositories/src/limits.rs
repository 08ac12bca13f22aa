//! What a remote repository may take: time, requests, files.

use std::time::Duration;

/// What reading a remote repository may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For a connection to come about.
    pub connect: Duration,
    /// For a machine to give credentials of its own.
    pub machine: Duration,
    /// For the first answer to a question, and for each further page of a listing.
    pub answer: Duration,
    /// How long nothing may come of a file.
    pub silence: Duration,
    /// Attempts at a file in a row of which none brings a byte.
    pub attempts: u32,
    /// The first pause between two attempts; each further one is twice as long, up to 32 times.
    pub pause: Duration,
    /// Files of one repository that are fetched at once.
    pub parallel: usize,
    /// Objects that one model, or the repository's own folder, may have.
    pub objects: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            machine: Duration::from_secs(2),
            answer: Duration::from_secs(8),
            silence: Duration::from_secs(30),
            attempts: 5,
            pause: Duration::from_millis(100),
            parallel: 8,
            objects: 100_000,
        }
    }
}
