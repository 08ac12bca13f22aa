//! The identity backend as one that wants its inputs in a pool of segments, and that notes where they lay. Included by the
//! tests of both front ends.

#![allow(dead_code, clippy::unwrap_used)] // each test program uses its own part of it; a test may panic

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use server_core::{
    backend::{Backend, Backends, Health, Host, Instance, Model, ModelSource, Placement},
    batch::Batch,
    error::Result,
    input_memory::InputMemory,
};
use server_proto::inference::ModelConfig;
use server_shm::{Segment, SegmentPool};

/// An input: its length, and for one in a segment the alignment of its address, at most 64.
pub(crate) type Seen = (usize, Option<usize>);

/// The backend, as `placing`; others are those of the server.
#[derive(Clone)]
pub(crate) struct Placing {
    pub(crate) pool: Arc<SegmentPool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Whether nobody else had the last input.
    pub(crate) is_unique: Arc<AtomicBool>,
}

impl Placing {
    pub(crate) fn new(pool: Arc<SegmentPool>) -> Self {
        Self { pool, seen: Arc::default(), is_unique: Arc::default() }
    }

    /// The inputs since the last call.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

impl Backends for Placing {
    fn find(&self, name: &str, runtime: &str, source: &ModelSource) -> Result<Arc<dyn Backend>> {
        match name {
            "placing" => Ok(Arc::new(self.clone())),
            _ => server_backends::all(&Default::default()).find(name, runtime, source),
        }
    }
}

impl Backend for Placing {
    fn name(&self) -> &str {
        "placing"
    }

    fn open(
        &self,
        source: &ModelSource,
        config: &mut ModelConfig,
        may_complete: bool,
        host: &Weak<dyn Host>,
    ) -> Result<Box<dyn Model>> {
        let identity = server_backends::all(&Default::default()).find("identity", "", source)?;
        let inner = identity.open(source, config, may_complete, host)?;
        Ok(Box::new(PlacingModel { inner, placing: self.clone() }))
    }
}

struct PlacingModel {
    inner: Box<dyn Model>,
    placing: Placing,
}

impl Model for PlacingModel {
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        self.inner.configure(config)
    }

    fn input_memory(&self) -> Option<Arc<dyn InputMemory>> {
        Some(self.placing.pool.clone())
    }

    fn instance(&self, placement: &Placement, health: &Health) -> Result<Box<dyn Instance>> {
        let inner = self.inner.instance(placement, health)?;
        Ok(Box::new(PlacingInstance { inner, placing: self.placing.clone() }))
    }
}

struct PlacingInstance {
    inner: Box<dyn Instance>,
    placing: Placing,
}

impl Instance for PlacingInstance {
    fn execute(&mut self, batch: Batch) {
        for tensor in batch.pending().iter().flat_map(|pending| &pending.request.inputs) {
            let alignment = 1 << (tensor.data.as_host().unwrap().as_ptr().addr().trailing_zeros().min(6));
            let is_placed = Segment::of(&tensor.data).is_some();
            self.placing.is_unique.store(tensor.data.take_unique(), Relaxed);
            self.placing.seen.lock().unwrap().push((tensor.data.len(), is_placed.then_some(alignment)));
        }
        self.inner.execute(batch);
    }
}
