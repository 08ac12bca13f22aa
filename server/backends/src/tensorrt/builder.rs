//! Builds a plan from an ONNX file, on the GPU that it is for: what `deploy/trt/build` calls.

use std::{
    ffi::{CString, OsStr},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use server_core::{
    backend::Settings,
    error::{Error, Result},
    tensor::{Shape, shape_text},
};

use super::{
    library,
    raw::{Build, Flag, Major, take_last_error},
};
use crate::{
    cuda::Gpu,
    dylib::{Library, LoadError},
};

/// Shapes of inputs by name.
pub(crate) type Shapes = Vec<(String, Vec<i64>)>;

/// The smallest, best and largest shape of each input.
type Ranges = Vec<(CString, [Shape; 3])>;

/// One optimization profile. An input that `opt` or `max` lacks has the shape of the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanProfile {
    /// Smallest shapes.
    pub min: Shapes,
    /// Shapes that run best.
    pub opt: Shapes,
    /// Largest shapes.
    pub max: Shapes,
}

/// What a plan is built from, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// The network.
    pub onnx: PathBuf,
    /// `libnvinfer.so.10`, or a folder with it; where it usually lies if it is not given. The parser lies beside it.
    pub library: Option<String>,
    /// Number of the GPU.
    pub gpu: u32,
    /// For inputs whose shapes are open.
    pub profiles: Vec<PlanProfile>,
    /// Of `fp16`, `bf16`, `int8`, `fp8`: types that layers may run in besides those of the network.
    pub precisions: Vec<String>,
    /// Layers run in the types that the network says.
    pub is_strongly_typed: bool,
    /// Later versions of TensorRT can run it.
    pub is_version_compatible: bool,
    /// All GPUs since Ampere can run it.
    pub is_hardware_compatible: bool,
    /// How much is tried for a faster plan, 0 to 5.
    pub level: Option<i32>,
    /// Most working memory of a layer, in MiB.
    pub workspace: Option<usize>,
}

/// The bytes of the plan.
///
/// Errors: `InvalidArgument` if an option is of no use or a library is missing, `Unavailable` without a GPU, `Internal` in the words of TensorRT
/// or of its parser.
pub fn build_plan(options: &PlanOptions) -> Result<Vec<u8>> {
    let settings: Settings = options.library.iter().map(|path| ("library".to_owned(), path.clone())).collect();
    let (api, library) = library::open_for_builder(&settings)?;
    if api.major != Major::Ten {
        let text =
            format!("plans are built with TensorRT 10, this is {}; its own trtexec builds them, too", api.version);
        return Err(Error::invalid_argument(text));
    }
    let parser = parser(&library).map_err(|error| Error::invalid_argument(error.to_string()))?;
    let gpu = Gpu::open(options.gpu)?; // until the plan is built
    gpu.enter().map_err(|error| Error::unavailable(format!("GPU {}: {error}", options.gpu)))?;
    let failed = |what: &str| {
        let words = take_last_error().unwrap_or_else(|| "TensorRT does not say why".into());
        Error::internal(format!("{what}: {words}"))
    };
    take_last_error();
    let build = Build::new(&library, options.is_strongly_typed).map_err(|error| Error::internal(error.to_string()))?;
    let mut build = build.ok_or_else(|| failed("unable to create the builder"))?;
    let file = CString::new(options.onnx.as_os_str().as_bytes())
        .map_err(|_| Error::invalid_argument("the file's name has a zero byte"))?;
    let parsed = build.parse(&parser, &file).map_err(|error| Error::internal(error.to_string()))?;
    parsed.map_err(|words| Error::internal(format!("cannot read '{}': {words}", options.onnx.display())))?;
    for precision in &options.precisions {
        build.set_flag(flag(precision)?);
    }
    if options.is_version_compatible {
        build.set_flag(Flag::VersionCompatible);
    }
    if options.is_hardware_compatible {
        build.run_on_many_gpus();
    }
    options.level.into_iter().for_each(|level| build.set_level(level));
    options.workspace.into_iter().for_each(|mebibytes| build.set_workspace(mebibytes << 20));
    let inputs = build.inputs();
    for profile in profiles(&inputs, &options.profiles)? {
        if !build.add_profile(&profile) {
            return Err(failed("the builder does not take a profile"));
        }
    }
    build.build().ok_or_else(|| failed("unable to build the plan"))
}

/// The parser beside the library.
fn parser(library: &Library) -> Result<Library, LoadError> {
    Library::open(&library.path().with_file_name(OsStr::new("libnvonnxparser.so.10")))
}

fn flag(precision: &str) -> Result<Flag> {
    match precision {
        "fp16" => Ok(Flag::Fp16),
        "bf16" => Ok(Flag::Bf16),
        "int8" => Ok(Flag::Int8),
        "fp8" => Ok(Flag::Fp8),
        other => Err(Error::invalid_argument(format!("unknown precision '{other}', expected fp16, bf16, int8 or fp8"))),
    }
}

/// Shapes of all inputs in each profile. Without a profile there is none if no shape is open.
///
/// Errors: `InvalidArgument` if a profile leaves an open shape out, names another input, or contradicts a shape.
fn profiles(inputs: &[(CString, Shape)], written: &[PlanProfile]) -> Result<Vec<Ranges>> {
    let is_open = |(_, shape): &&(CString, Shape)| shape.contains(&-1);
    let known = |name: &str| inputs.iter().any(|(input, _)| input.to_str() == Ok(name));
    for (name, _) in written.iter().flat_map(|profile| profile.min.iter().chain(&profile.opt).chain(&profile.max)) {
        if !known(name) {
            let names = inputs.iter().map(|(name, _)| name.to_string_lossy()).collect::<Vec<_>>().join(", ");
            return Err(Error::invalid_argument(format!("the network has no input '{name}'; it has: {names}")));
        }
    }
    if let (Some((name, shape)), true) = (inputs.iter().find(is_open), written.is_empty()) {
        let (name, shape) = (name.to_string_lossy(), shape_text(shape));
        let text = format!(
            "input '{name}' has the open shape {shape}: say its smallest, best and largest with --min, --opt and --max"
        );
        return Err(Error::invalid_argument(text));
    }
    let of = |profile: &PlanProfile| {
        inputs.iter().filter(is_open).map(|(name, open)| shapes(name, open, profile)).collect::<Result<Vec<_>>>()
    };
    written.iter().map(of).collect()
}

fn shapes(name: &CString, open: &Shape, profile: &PlanProfile) -> Result<(CString, [Shape; 3])> {
    let text = name.to_string_lossy();
    let find =
        |shapes: &Shapes| shapes.iter().find(|(known, _)| *known == text).map(|(_, shape)| Shape::from_slice(shape));
    let missing = || Error::invalid_argument(format!("a profile lacks the smallest shape of input '{text}' (--min)"));
    let min = find(&profile.min).ok_or_else(missing)?;
    let opt = find(&profile.opt).unwrap_or_else(|| min.clone());
    let max = find(&profile.max).unwrap_or_else(|| opt.clone());
    for shape in [&min, &opt, &max] {
        let fits = |(&open, &extent): (&i64, &i64)| extent >= 0 && (open == -1 || open == extent);
        if shape.len() != open.len() || !open.iter().zip(shape).all(fits) {
            let (shape, open) = (shape_text(shape), shape_text(open));
            return Err(Error::invalid_argument(format!(
                "input '{text}' cannot have shape {shape}: the network says {open}"
            )));
        }
    }
    Ok((name.clone(), [min, opt, max]))
}

/// Reads shapes as `trtexec` writes them: `x:1x3x224x224,y:1x8`.
///
/// Errors: `InvalidArgument` with the part that is not of that form.
pub fn read_shapes(text: &str) -> Result<Shapes> {
    let one = |part: &str| {
        let wrong =
            || Error::invalid_argument(format!("'{part}' is no shape: write NAME:EXTENTxEXTENT, e.g. x:1x3x224x224"));
        let (name, extents) = part.rsplit_once(':').ok_or_else(wrong)?;
        let extents =
            extents.split('x').map(|extent| extent.parse::<i64>().map_err(|_| wrong())).collect::<Result<Vec<_>>>()?;
        Ok((name.to_owned(), extents))
    };
    text.split(',').filter(|part| !part.is_empty()).map(one).collect()
}

/// Writes a plan to a file, whole or not at all.
///
/// Errors: `Unavailable` if it cannot be written.
pub fn write_plan(plan: &[u8], file: &Path) -> Result<()> {
    let unwritable = |error: std::io::Error| Error::unavailable(format!("cannot write '{}': {error}", file.display()));
    let mut beside = file.as_os_str().to_owned();
    beside.push(".part");
    std::fs::write(&beside, plan).and_then(|()| std::fs::rename(&beside, file)).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Vec<(CString, Shape)> {
        vec![(c"x".into(), Shape::from_slice(&[-1, 3])), (c"fixed".into(), Shape::from_slice(&[2]))]
    }

    fn profile(min: &str, max: &str) -> PlanProfile {
        PlanProfile { min: read_shapes(min).unwrap(), max: read_shapes(max).unwrap(), ..PlanProfile::default() }
    }

    #[test]
    fn shapes_are_written_as_for_trtexec() {
        assert_eq!(read_shapes("x:1x3,a:b:8").unwrap(), [("x".into(), vec![1, 3]), ("a:b".into(), vec![8])]);
        assert!(read_shapes("x1x3").unwrap_err().message.contains("'x1x3' is no shape"));
    }

    #[test]
    fn open_shapes_need_a_profile_that_fits() {
        let made = profiles(&inputs(), &[profile("x:1x3", "x:8x3")]).unwrap();
        let shapes = [[1, 3], [1, 3], [8, 3]].map(|shape| Shape::from_slice(&shape));
        assert_eq!(made, [[(CString::from(c"x"), shapes)]]);
        let refused = |written: &[PlanProfile]| profiles(&inputs(), written).unwrap_err().message;
        assert!(refused(&[]).contains("input 'x' has the open shape [-1,3]"));
        assert!(
            refused(&[profile("x:1x4", "")]).contains("input 'x' cannot have shape [1,4]: the network says [-1,3]")
        );
        assert!(refused(&[profile("z:1", "")]).contains("no input 'z'; it has: x, fixed"));
        assert_eq!(profiles(&inputs()[1..], &[]), Ok(vec![]));
    }
}
