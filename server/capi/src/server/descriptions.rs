//! What libraries read about the server and its models.

use std::ffi::{CString, c_void};

use server_core::{
    backend::Subject,
    error::{Error, Result},
    interface::ModelId,
};

use super::{Server, delete, models::version};
use crate::abi::{
    Handle, Out, Text,
    export::exports,
    handle::objects,
    numbers::{MetricFormat, model_flag},
    objects::{Message, text},
};

objects! { 29: Metrics => "TRITONSERVER_Metrics" }

/// A metrics page, as it was when it was asked for.
pub(crate) struct Metrics(CString);

exports! {
    /// Name, version and extensions of the server.
    fn TRITONSERVER_ServerMetadata(server: Handle<Server>, metadata: Out<Handle<Message>>) {
        let json = server.get()?.host()?.describe(Subject::Server)?;
        metadata.set(Handle::new(Message::of(&json)))
    }

    /// Versions, inputs and outputs of a model.
    fn TRITONSERVER_ServerModelMetadata(
        server: Handle<Server>,
        model_name: Text,
        model_version: i64,
        metadata: Out<Handle<Message>>,
    ) {
        let json = of_model(server, model_name, model_version, metadata_of)?;
        metadata.set(Handle::new(Message::of(&json)))
    }

    /// The completed configuration of a model.
    fn TRITONSERVER_ServerModelConfig(
        server: Handle<Server>,
        model_name: Text,
        model_version: i64,
        config_version: u32,
        config: Out<Handle<Message>>,
    ) {
        if config_version != 1 {
            let text = format!("model configuration version {config_version} not supported, supported versions are: 1");
            return Err(Error::invalid_argument(text));
        }
        let json = of_model(server, model_name, model_version, config_of)?;
        config.set(Handle::new(Message::of(&json)))
    }

    /// The counters of a model's versions; of all models, if the name is empty.
    fn TRITONSERVER_ServerModelStatistics(
        server: Handle<Server>,
        model_name: Text,
        model_version: i64,
        statistics: Out<Handle<Message>>,
    ) {
        let host = server.get()?.host()?;
        let (name, version) = (model_name.get()?, version(model_version)?);
        let model = (!name.is_empty()).then_some(ModelId { name: &name, version });
        statistics.set(Handle::new(Message::of(&host.describe(Subject::Statistics(model))?)))
    }

    /// The models of the repositories, or those that are ready.
    fn TRITONSERVER_ServerModelIndex(server: Handle<Server>, flags: u32, index: Out<Handle<Message>>) {
        let ready_only = flags & model_flag::INDEX_READY != 0;
        let json = server.get()?.host()?.describe(Subject::Index { ready_only })?;
        index.set(Handle::new(Message::of(&json)))
    }

    /// Whether the first dimension of a model's tensors is that of the batch.
    fn TRITONSERVER_ServerModelBatchProperties(
        server: Handle<Server>,
        model_name: Text,
        model_version: i64,
        flags: Out<u32>,
        detail: Out<*mut c_void>,
    ) {
        let json = of_model(server, model_name, model_version, config_of)?;
        let config: serde_json::Value = serde_json::from_str(&json)
            .map_err(|error| Error::internal(format!("the configuration cannot be read: {error}")))?;
        let has_batches = config["max_batch_size"].as_i64().is_some_and(|most| most > 0);
        detail.set_if_wanted(std::ptr::null_mut());
        flags.set(if has_batches { model_flag::BATCH_FIRST_DIM } else { model_flag::BATCH_UNKNOWN })
    }

    /// The metrics page as it is now.
    fn TRITONSERVER_ServerMetrics(server: Handle<Server>, metrics: Out<Handle<Metrics>>) {
        let page = server.get()?.host()?.describe(Subject::Metrics)?;
        metrics.set(Handle::new(Metrics(text(&page))))
    }

    /// Its text, for as long as it is not deleted.
    fn TRITONSERVER_MetricsFormatted(
        metrics: Handle<Metrics>,
        format: MetricFormat,
        base: Out<Text>,
        byte_size: Out<usize>,
    ) {
        let metrics = metrics.get()?;
        if format != MetricFormat::PROMETHEUS {
            return Err(Error::invalid_argument(format!("unknown metrics format '{}'", format.0)));
        }
        byte_size.set(metrics.0.as_bytes().len())?;
        base.set(Text::of(&metrics.0))
    }

    /// Deletes it.
    fn TRITONSERVER_MetricsDelete(metrics: Handle<Metrics>) {
        delete(metrics)
    }
}

fn metadata_of(model: ModelId<'_>) -> Subject<'_> {
    Subject::Metadata(model)
}

fn config_of(model: ModelId<'_>) -> Subject<'_> {
    Subject::Config(model)
}

fn of_model(
    server: Handle<Server>,
    name: Text,
    number: i64,
    subject: for<'b> fn(ModelId<'b>) -> Subject<'b>,
) -> Result<String> {
    let host = server.get()?.host()?;
    let (name, version) = (name.get()?, version(number)?);
    host.describe(subject(ModelId { name: &name, version }))
}
