//! What a pod mounts: manifest, model store, scratch space, and the ConfigMaps, claims and Secrets its models come from.
//! Which those are is decided in `mounts`.

use crds::parts::ByteCount;
use k8s_openapi::{
    api::core::v1::{
        ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource, KeyToPath,
        ObjectFieldSelector, PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use sha2::{Digest, Sha256};

use crate::{
    defaults, labels,
    mounts::{CLAIM, CONFIG_MAP, SECRET},
    names, pod, tls,
    validated::Validated,
};

const POD_INFO: &str = "podinfo";
const MANIFEST: &str = "manifest";
const MODELS: &str = "models";
const STORE: &str = "store";
const SCRATCH: &str = "tmp";
const SHARED_MEMORY: &str = "shm";
const CERTIFICATE: &str = "tls";
const CONTROL: &str = "control";
/// Limit of the folder of the control socket, which takes no space of its own.
const CONTROL_LIMIT: &str = "1Mi";
/// What the kubelet takes as the name of a volume.
const NAME_MAX: usize = 63;

/// Volumes of the pod.
pub(super) fn all(server: &Validated<'_>) -> Vec<Volume> {
    let shared_memory =
        server.server.spec.shm.as_ref().and_then(|shm| shm.size_limit).unwrap_or(defaults::SHARED_MEMORY);
    let mut volumes = vec![
        Volume {
            name: POD_INFO.into(),
            downward_api: Some(DownwardAPIVolumeSource {
                items: Some(vec![DownwardAPIVolumeFile {
                    path: pod::ADOPT.rsplit('/').next().unwrap_or(pod::ADOPT).to_owned(),
                    field_ref: Some(ObjectFieldSelector {
                        field_path: format!("metadata.annotations['{}']", labels::ADOPT),
                        api_version: Some("v1".into()),
                    }),
                    ..DownwardAPIVolumeFile::default()
                }]),
                ..DownwardAPIVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: MANIFEST.into(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::manifest_config_map(server.name),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: MODELS.into(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: size_limit(server).map(|limit| Quantity(limit.to_string())),
                medium: None,
            }),
            ..Volume::default()
        },
        Volume { name: SCRATCH.into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
        Volume {
            name: SHARED_MEMORY.into(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".into()),
                size_limit: Some(Quantity(shared_memory.to_string())),
            }),
            ..Volume::default()
        },
        Volume {
            name: CONTROL.into(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".into()),
                size_limit: Some(Quantity(CONTROL_LIMIT.into())),
            }),
            ..Volume::default()
        },
    ];
    volumes.extend(store(server).map(|name| Volume {
        name: STORE.into(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: name.to_owned(),
            read_only: None, // the agent fills it
        }),
        ..Volume::default()
    }));
    // A pod without its certificate could not serve: it waits for the Secret, and the kubelet says what it lacks.
    volumes.extend(server.server.spec.tls.as_ref().map(|tls| Volume {
        name: CERTIFICATE.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(tls.secret_name.clone()),
            items: Some(
                tls::keys(tls).map(|key| KeyToPath { key: key.into(), path: key.into(), mode: None }).collect(),
            ),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }));
    let mounts = &server.mounts;
    // What does not exist yet must not hold up the pod and the other models: the agent reports it, and the kubelet
    // brings it when it appears.
    volumes.extend(mounts.config_maps.iter().map(|name| Volume {
        name: volume_name(CONFIG_MAP, name),
        config_map: Some(ConfigMapVolumeSource {
            name: name.clone(),
            optional: Some(true),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }));
    volumes.extend(mounts.claims.iter().map(|name| Volume {
        name: volume_name(CLAIM, name),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: name.clone(),
            read_only: Some(true), // the files of the model's owner: nothing in the pod may change them
        }),
        ..Volume::default()
    }));
    volumes.extend(mounts.secrets.iter().map(|name| Volume {
        name: volume_name(SECRET, name),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.clone()),
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }));
    volumes
}

/// What the server sees: the repository, which only the agent changes, and scratch space.
pub(super) fn of_server(server: &Validated<'_>) -> Vec<VolumeMount> {
    let mut all = vec![
        read_only(MODELS, pod::MODELS),
        mount(SHARED_MEMORY, "/dev/shm"),
        mount(SCRATCH, "/tmp"),
        mount(CONTROL, pod::CONTROL),
    ];
    all.extend(store(server).map(|_| read_only(STORE, pod::STORE)));
    all.extend(server.server.spec.tls.as_ref().map(|_| read_only(CERTIFICATE, pod::TLS)));
    all
}

/// What the agent sees: the manifest, the sources, and the store it fills.
pub(super) fn of_agent(server: &Validated<'_>) -> Vec<VolumeMount> {
    let mut all = vec![
        read_only(POD_INFO, pod::POD_INFO),
        read_only(MANIFEST, pod::MANIFEST),
        mount(MODELS, pod::MODELS),
        mount(SCRATCH, "/tmp"),
        read_only(CONTROL, pod::CONTROL),
    ];
    all.extend(store(server).map(|_| mount(STORE, pod::STORE)));
    let mounts = &server.mounts;
    for (kind, names, folder) in [
        (CONFIG_MAP, &mounts.config_maps, pod::CONFIG_MAPS),
        (CLAIM, &mounts.claims, pod::CLAIMS),
        (SECRET, &mounts.secrets, pod::SECRETS),
    ] {
        all.extend(names.iter().map(|name| read_only(&volume_name(kind, name), &format!("{folder}/{name}"))));
    }
    all
}

/// The claim on which models outlive their pods.
pub(super) fn store<'a>(server: &'a Validated<'_>) -> Option<&'a str> {
    let store = server.server.spec.model_store.as_ref()?;
    Some(&store.persistent_volume_claim.as_ref()?.claim_name)
}

/// What the volume for models may take before the kubelet evicts the pod.
pub(super) fn size_limit(server: &Validated<'_>) -> Option<ByteCount> {
    let store = server.server.spec.model_store.as_ref()?;
    store.empty_dir.as_ref()?.size_limit
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn read_only(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(volume, path) }
}

/// A name for the volume of `object`. Names of objects may be longer than names of volumes and have dots: those become a
/// hash.
fn volume_name(kind: &str, object: &str) -> String {
    let plain = format!("{kind}-{object}");
    if plain.len() <= NAME_MAX && !plain.contains('.') {
        return plain;
    }
    format!("{kind}-{}", &hex::encode(Sha256::digest(object))[..16])
}

#[cfg(test)]
mod tests {
    use super::volume_name;

    #[test]
    fn every_object_name_gives_a_volume_name() {
        assert_eq!(volume_name("claim", "models"), "claim-models");
        let long = volume_name("claim", &"a".repeat(253));
        assert!(long.len() <= 63 && long != volume_name("claim", &"a".repeat(252)), "{long}");
        assert!(!volume_name("secret", "s3.example.com").contains('.'));
    }
}
