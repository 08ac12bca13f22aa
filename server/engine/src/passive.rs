//! Instances that are made and never given requests: their backend uses them by itself.

use std::{
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use server_core::{
    backend::{Health, Model},
    error::{Error, Result},
};

use crate::{instance, instance_plan::InstancePlan};

/// One passive instance, on the thread that made it. It goes when this is dropped.
pub(crate) struct PassiveInstance {
    pub(crate) plan: InstancePlan,
    /// Never sent: the thread waits for it to be dropped.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PassiveInstance {
    /// Makes the instance, and blocks until it is there.
    ///
    /// Errors: it cannot be made.
    pub(crate) fn start(model: Arc<dyn Model>, plan: InstancePlan) -> Result<Self> {
        let (arrived, arrival) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let placement = plan.placement.clone();
        let thread = thread::Builder::new().name(placement.instance_name.clone()).spawn(move || {
            let instance = instance::make(&*model, &placement, &Health::default());
            drop(model);
            match instance {
                Ok(instance) => {
                    let _ = arrived.send(Ok(())); // somebody waits
                    let _ = stopped.recv(); // an error when nobody wants it any more
                    drop(instance);
                }
                Err(error) => drop(arrived.send(Err(error))),
            }
        });
        let thread =
            thread.map_err(|error| Error::internal(format!("cannot start a thread for an instance: {error}")))?;
        let passive = Self { plan, stop: Some(stop), thread: Some(thread) };
        // a hang-up means that it panicked while it made the instance
        arrival.recv().unwrap_or_else(|_| Err(Error::internal("the instance's thread ended at start")))?;
        Ok(passive)
    }
}

impl Drop for PassiveInstance {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of passive instance '{}' ended by panic", self.plan.placement.instance_name);
        }
    }
}
