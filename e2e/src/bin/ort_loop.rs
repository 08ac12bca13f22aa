//! ONNX Runtime alone, in a loop: what the model itself costs, without a server around it.
//! Usage: `ort_loop LIBRARY MODEL BATCH SECONDS [THREADS [SESSIONS [GPU]]]`; each thread has so many sessions of its own, one by default, which it runs in
//! turn. They compute on that thread, or on the GPU of that number. The model has one input, of FP32 or INT64. Prints the median and the mean of one run in
//! microseconds, and the runs per second of all threads.

use std::{
    env,
    io::{Write, stdout},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use ort::{
    environment::Environment,
    ep,
    session::{Session, SessionInputValue},
    value::{TensorElementType, TensorRef, ValueType},
};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [library, model, batch, seconds, rest @ ..] = arguments.as_slice() else {
        bail!("usage: ort_loop LIBRARY MODEL BATCH SECONDS [THREADS [SESSIONS [GPU]]]");
    };
    let threads = rest.first().map_or("1", String::as_str);
    let sessions_each: usize = rest.get(1).map_or(Ok(1), |count| count.parse()).context("SESSIONS is a number")?;
    let gpu: Option<i32> = rest.get(2).map(|gpu| gpu.parse()).transpose().context("GPU is a number")?;
    let batch: usize = batch.parse().context("BATCH is a number")?;
    let limit = Duration::from_secs_f64(seconds.parse().context("SECONDS is a number")?);
    let threads: usize = threads.parse().context("THREADS is a number")?;

    let environment = ort::init_from(library)?.with_name("loop").with_telemetry(false).build()?;
    let of_thread = || (0..sessions_each).map(|_| open(&environment, model, gpu)).collect::<Result<Vec<_>>>();
    let sessions = (0..threads).map(|_| of_thread()).collect::<Result<Vec<_>>>()?;
    let start = Arc::new(Barrier::new(threads));
    let running: Vec<_> = sessions
        .into_iter()
        .map(|sessions| {
            let start = Arc::clone(&start);
            thread::spawn(move || run(sessions, batch, limit, &start))
        })
        .collect();
    let mut times = Vec::new();
    for one in running {
        times.extend(one.join().map_err(|_| anyhow!("a thread panicked"))??);
    }
    times.sort_unstable();
    let total = times.iter().sum::<u128>() as f64;
    let (median, mean) = (times[times.len() / 2] as f64 / 1000.0, total / times.len() as f64 / 1000.0);
    // Every thread runs all the time, so the time that all runs took is the time of all threads.
    let per_second = times.len() as f64 * threads as f64 / (total / 1e9);
    writeln!(stdout(), "{median:.3} {mean:.3} {per_second:.3}")?;
    Ok(())
}

fn open(environment: &Environment, model: &str, gpu: Option<i32>) -> Result<Session> {
    let mut builder = Session::builder(environment)?.with_intra_threads(1).map_err(|error| anyhow!("{error}"))?;
    if let Some(gpu) = gpu {
        let cuda = ep::CUDA::default().with_device_id(gpu).build().error_on_failure();
        builder = builder.with_execution_providers([cuda]).map_err(|error| anyhow!("{error}"))?;
    }
    Ok(builder.commit_from_file(model)?)
}

/// Nanoseconds of each run of these sessions in turn until `limit` has passed.
fn run(mut sessions: Vec<Session>, batch: usize, limit: Duration, start: &Barrier) -> Result<Vec<u128>> {
    let first = sessions.first().context("SESSIONS is one at least")?;
    let ValueType::Tensor { ty, shape, .. } = first.inputs()[0].dtype() else {
        bail!("the first input is a tensor");
    };
    let (kind, mut shape) = (*ty, shape.to_vec());
    shape[0] = batch.try_into()?;
    let numbers = usize::try_from(shape.iter().product::<i64>()).context("every dimension but the first is fixed")?;
    let (floats, integers) = (vec![0.5f32; numbers], vec![7i64; numbers]);

    let mut times = Vec::with_capacity(1 << 20);
    start.wait();
    let started = Instant::now();
    let (mut next, count) = (0, sessions.len());
    while started.elapsed() < limit {
        let session = &mut sessions[next];
        next = (next + 1) % count;
        let run = Instant::now();
        let input: SessionInputValue<'_> = match kind {
            TensorElementType::Float32 => TensorRef::from_array_view((shape.clone(), floats.as_slice()))?.into(),
            TensorElementType::Int64 => TensorRef::from_array_view((shape.clone(), integers.as_slice()))?.into(),
            other => bail!("an input of {other}: only FP32 and INT64 are known here"),
        };
        session.run([input])?;
        times.push(run.elapsed().as_nanos());
    }
    Ok(times)
}
