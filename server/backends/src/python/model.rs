//! One opened Python model.

use std::{sync::Arc, time::Duration};

use server_core::{
    backend::{Device, Health, Instance, MemoryUse, Model, Placement, Readiness},
    config::ModelConfig,
    error::{Error, Result},
    input_memory::InputMemory,
    stats::CustomCounter,
};

use super::{batch_time::BatchTime, instance::PythonInstance, start::Starter, supervise::Supervisor};

/// One opened Python model: nothing but the way to start its workers.
pub(super) struct PythonModel {
    /// Nobody else has it before the first instance is made.
    pub(super) starter: Arc<Starter>,
}

impl Model for PythonModel {
    fn configure(&mut self, config: &Arc<ModelConfig>) -> Result<()> {
        let starter = Arc::get_mut(&mut self.starter);
        starter.ok_or_else(|| Error::internal("a model is configured once"))?.configure(config);
        Ok(())
    }

    fn input_memory(&self) -> Option<Arc<dyn InputMemory>> {
        Some(self.starter.backend.pool.clone())
    }

    fn counters(&self) -> Vec<CustomCounter> {
        vec![CustomCounter {
            name: "tritonserver_python_worker_restarts",
            help: "Number of workers of the Python model that took the place of one that was lost",
            value: self.starter.workers.restarts(),
        }]
    }

    fn memory(&self) -> Vec<MemoryUse> {
        // what a worker holds on GPUs, only its own libraries know
        self.starter.workers.memory().map(|bytes| MemoryUse { device: Device::Cpu, bytes }).into_iter().collect()
    }

    fn readiness(&self) -> Option<Readiness> {
        self.starter.workers.probes.readiness()
    }

    /// Most of it the worker's: the caller's thread sleeps meanwhile, as it would anyway, and goes on after 2 ms in any case.
    fn longest_inline_run(&self) -> Duration {
        BatchTime::QUICK
    }

    fn instance(&self, placement: &Placement, health: &Health) -> Result<Box<dyn Instance>> {
        let supervisor = Supervisor::start(self.starter.clone(), placement, health)?;
        Ok(Box::new(PythonInstance::new(supervisor, !self.starter.is_decoupled())))
    }
}
