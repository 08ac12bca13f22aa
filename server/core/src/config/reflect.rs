//! The bridge between [`ModelConfig`] and its reflected form, in which fields are known by name.

use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, ReflectMessage};

use super::ModelConfig;

/// The schema of a configuration.
pub(super) fn schema() -> MessageDescriptor {
    server_proto::descriptor_pool()
        .get_message_by_name("inference.ModelConfig")
        .expect("declared in model_config.proto")
}

/// The reflected form of a configuration.
pub(super) fn to_dynamic(config: &ModelConfig) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(schema());
    dynamic.transcode_from(config).expect("both sides are generated from model_config.proto");
    dynamic
}

/// The configuration of a reflected form.
pub(super) fn from_dynamic(dynamic: &DynamicMessage) -> ModelConfig {
    dynamic.transcode_to().expect("both sides are generated from model_config.proto")
}

/// The fields of a message in the order the schema declares them, which is the order people write them in.
pub(super) fn declared_fields(message: &DynamicMessage) -> Vec<FieldDescriptor> {
    let message = message.descriptor();
    let declared = message.descriptor_proto().field.iter();
    declared.filter_map(|field| message.get_field_by_name(field.name.as_deref()?)).collect()
}

/// Whether a field is absent, rather than zero: a message, or a choice not taken.
pub(super) fn is_absent(message: &DynamicMessage, field: &FieldDescriptor) -> bool {
    field.supports_presence() && !message.has_field(field)
}
