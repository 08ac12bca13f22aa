//! Builds a TensorRT plan from an ONNX file, on the GPU that it is for. `deploy/trt/build` is its front.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::{env, path::PathBuf, process::ExitCode};

use server_backends::{PlanOptions, PlanProfile, build_plan, read_shapes, write_plan};

const USAGE: &str = "usage: build-plan --onnx=FILE --save=FILE [--min=SHAPES --opt=SHAPES --max=SHAPES]... [--fp16] [--bf16] [--int8] [--fp8]
                  [--strongly-typed] [--version-compatible] [--hardware-compatible] [--level=0..5] [--workspace=MIB] [--gpu=N] [--library=PATH]
SHAPES: NAME:EXTENTxEXTENT,..., e.g. x:1x3x224x224. Each --min begins a profile.";

fn main() -> ExitCode {
    let run = || {
        let (options, save) = read(env::args().skip(1))?;
        let plan = build_plan(&options).map_err(|error| error.message)?;
        write_plan(&plan, &save).map_err(|error| error.message)?;
        println!("{}: {} bytes", save.display(), plan.len());
        Ok::<_, String>(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The options and the file to write.
fn read(arguments: impl Iterator<Item = String>) -> Result<(PlanOptions, PathBuf), String> {
    let mut options = PlanOptions::default();
    let mut save = None;
    for argument in arguments {
        let (flag, value) = argument.split_once('=').map_or((&*argument, None), |(flag, value)| (flag, Some(value)));
        let needed = || value.ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
        let number = || needed()?.parse::<u32>().map_err(|_| format!("{argument}: not a number"));
        let shapes = || read_shapes(needed()?).map_err(|error| error.message);
        match flag {
            "--onnx" => options.onnx = needed()?.into(),
            "--save" => save = Some(PathBuf::from(needed()?)),
            "--min" => options.profiles.push(PlanProfile { min: shapes()?, ..PlanProfile::default() }),
            "--opt" => last(&mut options)?.opt = shapes()?,
            "--max" => last(&mut options)?.max = shapes()?,
            "--fp16" | "--bf16" | "--int8" | "--fp8" => options.precisions.push(flag[2..].to_owned()),
            "--strongly-typed" => options.is_strongly_typed = true,
            "--version-compatible" => options.is_version_compatible = true,
            "--hardware-compatible" => options.is_hardware_compatible = true,
            "--level" => options.level = Some(number()?.min(5) as i32),
            "--workspace" => options.workspace = Some(number()? as usize),
            "--gpu" => options.gpu = number()?,
            "--library" => options.library = Some(needed()?.to_owned()),
            _ => return Err(format!("unknown argument {argument}\n{USAGE}")),
        }
    }
    match save {
        Some(save) if !options.onnx.as_os_str().is_empty() => Ok((options, save)),
        _ => Err(USAGE.to_owned()),
    }
}

fn last(options: &mut PlanOptions) -> Result<&mut PlanProfile, String> {
    options.profiles.last_mut().ok_or_else(|| "--opt and --max come after --min".to_owned())
}
