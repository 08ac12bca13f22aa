//! The messages on the wire and in `config.pbtxt`, generated from `protos/`, with their descriptors for text and JSON
//! forms. Clients and servers of the services come with the feature `service`.

use std::sync::OnceLock;

use prost_reflect::DescriptorPool;

/// Package `inference`: requests, responses and [`inference::ModelConfig`].
#[allow(missing_docs, clippy::all, clippy::large_futures, unreachable_pub)] // generated
pub mod inference {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

/// Package `grpc.health.v1`: the health question of gRPC.
#[allow(missing_docs, clippy::all, clippy::large_futures, unreachable_pub)] // generated
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// Every message and field by name. Decoded on first use, then shared.
pub fn descriptor_pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice())
            .expect("written by the build script from compiled files")
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{
        descriptor_pool,
        inference::{DataType, ModelConfig, ModelInferRequest},
    };

    #[test]
    fn descriptors_know_every_package() {
        for name in ["inference.ModelConfig", "inference.ModelInferRequest", "grpc.health.v1.HealthCheckResponse"] {
            assert!(descriptor_pool().get_message_by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn raw_contents_share_the_received_bytes() {
        let request = ModelInferRequest { raw_input_contents: vec![vec![7; 4096].into()], ..Default::default() };
        let wire = bytes::Bytes::from(request.encode_to_vec());
        let read = ModelInferRequest::decode(wire.clone()).unwrap();
        let tensor = &read.raw_input_contents[0];
        assert!(wire.as_ptr_range().contains(&tensor.as_ptr()));
    }

    #[test]
    fn numbers_are_those_of_the_wire() {
        let config = ModelConfig { backend: "b".into(), runtime: "r".into(), max_batch_size: 8, ..Default::default() };
        assert_eq!(config.encode_to_vec(), b"\x20\x08\x8a\x01\x01b\xca\x01\x01r");
        assert_eq!(DataType::TypeBf16 as i32, 14);
        assert_eq!(DataType::from_str_name("TYPE_STRING"), Some(DataType::TypeString));
    }
}
