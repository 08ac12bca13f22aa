//! The container image of a server.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NameRef, schema};

/// The server's container image. Absent fields come from the operator's own configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Repository without a tag, such as registry.example/triton.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub repository: Option<String>,
    /// Which runtimes the image holds; it stands behind the name of the repository, as in tritonserver-pytorch. onnx: ONNX Runtime
    /// alone, in the repository without such an ending; python, pytorch, tensorflow, openvino: that one as well; full: all of these;
    /// onnx-cuda, tensorrt, pytorch-cuda: for NVIDIA GPUs. Default: that of the operator's own choice, and with a repository, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<ImageVariant>,
    /// Tag of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"))]
    pub tag: Option<String>,
    /// Digest of the image, such as sha256:0123…; where both are given the digest decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// When the kubelet pulls: Always, IfNotPresent or Never. Default: IfNotPresent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Secrets of the namespace with credentials for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub pull_secrets: Vec<NameRef>,
}

/// Which runtimes an image of the server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::without_description)]
pub enum ImageVariant {
    /// ONNX Runtime.
    Onnx,
    /// ONNX Runtime, and Python with numpy.
    Python,
    /// ONNX Runtime, LibTorch, and Python with numpy and torch.
    Pytorch,
    /// ONNX Runtime and TensorFlow.
    Tensorflow,
    /// ONNX Runtime and OpenVINO.
    Openvino,
    /// All of the above.
    Full,
    /// ONNX Runtime for NVIDIA GPUs.
    OnnxCuda,
    /// ONNX Runtime and TensorRT for NVIDIA GPUs.
    Tensorrt,
    /// ONNX Runtime and PyTorch for NVIDIA GPUs.
    PytorchCuda,
}

impl ImageVariant {
    /// Every variant.
    pub const ALL: [Self; 9] = [
        Self::Onnx,
        Self::Python,
        Self::Pytorch,
        Self::Tensorflow,
        Self::Openvino,
        Self::Full,
        Self::OnnxCuda,
        Self::Tensorrt,
        Self::PytorchCuda,
    ];

    /// What stands behind the name of the repository.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Onnx => "",
            Self::Python => "-python",
            Self::Pytorch => "-pytorch",
            Self::Tensorflow => "-tensorflow",
            Self::Openvino => "-openvino",
            Self::Full => "-full",
            Self::OnnxCuda => "-onnx-cuda",
            Self::Tensorrt => "-tensorrt",
            Self::PytorchCuda => "-pytorch-cuda",
        }
    }
}

/// When the kubelet pulls an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::without_description)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// If the node lacks it.
    IfNotPresent,
    /// Never: the node has it, or the pod fails.
    Never,
}
