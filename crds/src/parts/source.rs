//! Where the files of a model come from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NameRef, reference::NAME_PATTERN, schema};

/// Where the files of a model come from: exactly one of inline, configMap, pvc, http, s3, gcs, azure, huggingFace, oci.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "[has(self.inline), has(self.configMap), has(self.pvc), has(self.http), has(self.s3), has(self.gcs), has(self.azure), has(self.huggingFace), has(self.oci)].filter(given, given).size() == 1",
    "a source is exactly one of inline, configMap, pvc, http, s3, gcs, azure, huggingFace or oci",
)])))]
pub struct ModelSource {
    /// Files written in the resource itself: small text such as model.py, up to 256 KiB in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<InlineSource>,
    /// A ConfigMap of the namespace: models below 1 MiB. Binary files go into its binaryData. One above 256 KiB
    /// is mounted into the pods, which are replaced for it only if the server allows it (spec.modelAccess.allowPodRestart).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// A folder, a file or an archive (.tar, .tar.gz, .tgz, .zip) on a PersistentVolumeClaim of the namespace, which the server lists in
    /// spec.modelAccess.claims. Symbolic links that stay on the claim are followed; in an archive they are refused, as in every source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<PvcSource>,
    /// An archive (.tar, .tar.gz, .tgz, .zip) or a plain file behind an http or https address. An archive holds files and folders: one
    /// with symbolic or hard links is refused (InvalidSource), so pack what they lead to (tar --dereference).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// A folder or an object of a bucket of S3, or of a server with the same interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Source>,
    /// A folder or an object of a bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsSource>,
    /// A folder or a blob of a container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureSource>,
    /// A repository of the Hugging Face Hub, or of a server with the same interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFaceSource>,
    /// A container image, or a model packed as an OCI artifact (ModelPack, ORAS), in a registry. It is pulled by the agent: any
    /// cluster can use it. Links are followed as long as they stay within the model's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
}

/// Files written in the resource itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InlineSource {
    /// Content by path below the model's folder, such as 1/model.py or config.pbtxt.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 64))]
    pub files: BTreeMap<String, String>,
}

/// Files held in a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapSource {
    /// Name of the ConfigMap, in the model's namespace.
    #[schemars(regex(pattern = NAME_PATTERN), length(min = 1, max = 253))]
    pub name: String,
    /// Which keys are taken and where they lie below the model's folder. Absent: every key, as a file of that name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub items: Vec<KeyPath>,
}

/// One key of a ConfigMap and the file it becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyPath {
    /// Key in data or binaryData.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Path below the model's folder, such as 1/model.onnx.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
}

/// Files on a PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PvcSource {
    /// Name of the claim, in the model's namespace.
    #[schemars(regex(pattern = NAME_PATTERN), length(min = 1, max = 253))]
    pub claim_name: String,
    /// Folder, file or archive within the claim, relative to its root. Default: the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = schema::rules(&[(
        "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
        "path stays inside the claim: write it relative to the claim's root and without '..'",
    )])))]
    pub path: Option<String>,
}

/// Files behind an address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpSource {
    /// Address beginning with http:// or https://.
    #[schemars(regex(pattern = URI_PATTERN), length(max = 2048))]
    pub uri: String,
    /// Secret of the namespace with either `token` (sent as a bearer token) or `username` and `password`. The
    /// server lists it in spec.modelAccess.secrets, and it carries the label `triton-operator.dev/model-access: "true"`; others are
    /// not used (AccessDenied, CredentialsMissing). It is mounted into the server's pods, and the operator never reads what it
    /// holds. One that comes or changes later gives a model that was not fetched new attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
}

/// Objects of S3. Each is checked against the checksum that the store tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Source {
    /// s3://BUCKET/PATH: a folder, or one object: a file or an archive (.tar, .tar.gz, .tgz, .zip).
    #[schemars(regex(pattern = S3_URI_PATTERN), length(max = 2048))]
    pub uri: String,
    /// Address of a server with the interface of S3, such as https://minio.example:9000. Default: that of AWS in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = URI_PATTERN), length(max = 2048))]
    pub endpoint: Option<String>,
    /// Region of the bucket. Default: that of the Secret or of the pod's environment, else us-east-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// Whether the bucket stands in the path of addresses, rather than in the name of their host. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Secret of the namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and where it is needed AWS_SESSION_TOKEN, AWS_REGION,
    /// ca.crt (certificates of the endpoint). It is never read by the operator. Absent: the identity of the pod, else nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
}

/// Objects of Google Cloud Storage. Each is checked against the checksum that the store tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcsSource {
    /// gs://BUCKET/PATH: a folder, or one object: a file or an archive (.tar, .tar.gz, .tgz, .zip).
    #[schemars(regex(pattern = GCS_URI_PATTERN), length(max = 2048))]
    pub uri: String,
    /// Address of a server with the same interface. Requests to it are signed with a Secret's key or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = URI_PATTERN), length(max = 2048))]
    pub endpoint: Option<String>,
    /// Secret of the namespace with the key of a service account as service-account.json. It is never read by the operator.
    /// Absent: the identity of the pod, else nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
}

/// Blobs of Azure Blob Storage. Each is checked against the checksum that the store tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureSource {
    /// as://ACCOUNT/CONTAINER/PATH: a folder, or one blob: a file or an archive (.tar, .tar.gz, .tgz, .zip).
    #[schemars(regex(pattern = AZURE_URI_PATTERN), length(max = 2048))]
    pub uri: String,
    /// Address of a server with the same interface. Requests to it are signed with a Secret's key or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = URI_PATTERN), length(max = 2048))]
    pub endpoint: Option<String>,
    /// Secret of the namespace with AZURE_STORAGE_KEY. It is never read by the operator. Absent: nobody's identity, or that of the
    /// pod where its environment says AZURE_STORAGE_AUTH_TYPE=default or managed_identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
}

/// What the address of objects on S3 must look like.
pub const S3_URI_PATTERN: &str = r"^s3://[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9](/[^?#]*)?$";

/// What the address of objects on Google Cloud Storage must look like.
pub const GCS_URI_PATTERN: &str = r"^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^?#]*)?$";

/// What the address of blobs on Azure must look like.
pub const AZURE_URI_PATTERN: &str =
    r"^as://[a-z0-9]{3,24}(\.blob\.core\.windows\.net)?/[a-z0-9$][a-z0-9-]{0,62}(/[^?#]*)?$";

/// A repository of the Hugging Face Hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFaceSource {
    /// Name of the repository, such as organisation/model.
    #[schemars(regex(pattern = HUB_REPO_PATTERN), length(max = 256))]
    pub repo: String,
    /// Commit, tag or branch. Default: main. A branch or a tag is resolved to a commit when a pod fetches: only a commit (40
    /// hexadecimal digits) makes sure that pods which start later serve the same files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub revision: Option<String>,
    /// Patterns of the files to take, such as onnx/* or *.onnx: * and ? also match a slash, [abc] is one of these characters, as
    /// `hf download --include` has it. Absent: every file but README.md, .gitattributes and .gitignore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub include: Vec<String>,
    /// Address of the hub. Default: https://huggingface.co.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = URI_PATTERN), length(max = 2048))]
    pub endpoint: Option<String>,
    /// Secret of the namespace with `token` (or `HF_TOKEN`), for private and gated repositories; listed by the server and labelled
    /// as one of http is. It is sent to the hub and to no other host, and never read by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
}

/// An image or an artifact in a registry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OciSource {
    /// Image or artifact, such as registry.example/models/resnet50:v1 or, so that every pod serves the same, with a digest:
    /// registry.example/models/resnet50@sha256:DIGEST. Of an image the folder /models is taken if it has one, else all of it.
    #[schemars(length(min = 1, max = 512))]
    pub reference: String,
    /// Secret of the namespace with `.dockerconfigjson` (type kubernetes.io/dockerconfigjson), or with `username` and `password`;
    /// listed by the server and labelled as one of http is. It is never read by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
    /// Asks the registry without encryption. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_http: Option<bool>,
}

/// What the name of a repository on the Hugging Face Hub must look like.
pub const HUB_REPO_PATTERN: &str = "^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?$";

/// What an address must look like.
pub const URI_PATTERN: &str = r"^https?://[^/?#\s]+([/?][^\s]*)?$";

/// What a SHA-256 must look like.
pub const SHA256_PATTERN: &str = "^[0-9a-fA-F]{64}$";

/// What the fetched files must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checksum {
    /// SHA-256 in 64 hexadecimal digits: of the file or archive fetched; for a folder, of the lines `DIGEST  PATH\n` of
    /// its files in the order of their paths, as `sha256sum` prints them.
    #[schemars(regex(pattern = SHA256_PATTERN))]
    pub sha256: String,
}

/// How the fetched files are arranged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum Layout {
    /// Repository if a numbered folder or config.pbtxt is found, else File.
    #[default]
    Auto,
    /// A model folder: config.pbtxt and numbered version folders.
    Repository,
    /// The bare files of one version; they become version 1.
    File,
}

/// What kind of model the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(transform = schema::without_description)]
pub enum ModelFormat {
    /// An ONNX graph (model.onnx).
    Onnx,
    /// A TensorRT plan (model.plan).
    Tensorrt,
    /// A PyTorch model: a TorchScript module (model.pt), an exported one (model.pt2), or a class in Python (model.py, with config.runtime).
    Pytorch,
    /// A TensorFlow SavedModel (the folder model.savedmodel) or a graph (model.graphdef).
    Tensorflow,
    /// An OpenVINO network (model.xml and model.bin).
    Openvino,
    /// A Python model (model.py).
    Python,
    /// A graph of other models, described by configPbtxt alone.
    Ensemble,
}
