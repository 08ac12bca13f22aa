//! ONNX Runtime alone, in a loop on one thread: what the model itself costs, without a server around it.
//! Usage: `ort_loop LIBRARY MODEL BATCH SECONDS`; prints the median and the mean of one run in microseconds.

use std::{
    env,
    io::{Write, stdout},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use ort::{session::Session, value::TensorRef};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [library, model, batch, seconds] = arguments.as_slice() else {
        bail!("usage: ort_loop LIBRARY MODEL BATCH SECONDS");
    };
    let batch: usize = batch.parse().context("BATCH is a number")?;
    let limit = Duration::from_secs_f64(seconds.parse().context("SECONDS is a number")?);

    let environment = ort::init_from(library)?.with_name("loop").with_telemetry(false).build()?;
    let mut builder = Session::builder(&environment)?.with_intra_threads(1).map_err(|error| anyhow!("{error}"))?;
    let mut session = builder.commit_from_file(model)?;
    let shape = session.inputs()[0].dtype().tensor_shape().context("the first input is a tensor")?;
    let width: usize = shape.iter().skip(1).map(|size| usize::try_from(*size).unwrap_or(1)).product();
    let data = vec![0.5f32; batch * width];

    let mut times = Vec::with_capacity(1 << 20);
    let started = Instant::now();
    while started.elapsed() < limit {
        let run = Instant::now();
        let input = TensorRef::from_array_view(([batch, width], data.as_slice()))?;
        session.run(ort::inputs![input])?;
        times.push(run.elapsed().as_nanos());
    }
    times.sort_unstable();
    let mean = times.iter().sum::<u128>() as f64 / times.len() as f64;
    writeln!(stdout(), "{:.3} {:.3}", times[times.len() / 2] as f64 / 1000.0, mean / 1000.0)?;
    Ok(())
}
