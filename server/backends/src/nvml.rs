//! What GPUs do, by NVIDIA's management library, which comes with the driver and is opened at run time.
//!
//! A thread of its own asks the driver; a page shows what it said last, and never waits for it.

mod raw;

use std::{
    path::Path,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use server_core::metrics::{GpuProbe, GpuSnapshot};

use self::raw::{Device, Nvml};
use crate::dylib::{self, Library, LoadError, Wanted};

/// The driver is asked no more often than this.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Begins to watch the GPUs of this machine, once in each interval.
///
/// Errors: the library is not there or does not begin, which is so on every machine without a GPU; its thread cannot be started.
pub fn gpu_probe(interval: Duration) -> Result<Arc<dyn GpuProbe>, String> {
    let path = dylib::find(&Wanted {
        file_name: "libnvidia-ml.so",
        setting: None,
        variable: "NVML_DYLIB_PATH",
        known: &[
            "/usr/lib",
            "/usr/lib64",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/local/nvidia/lib64",
            "/usr/lib/wsl/lib",
        ],
        cure: "it comes with NVIDIA's driver; elsewhere name its file with NVML_DYLIB_PATH",
    });
    let nvml = path.and_then(|path| open(&path)).map_err(|error| error.to_string())?;
    let gpus: Arc<dyn GpuProbe> = Gpus::watch(nvml, interval.max(SHORTEST_INTERVAL))?;
    Ok(gpus)
}

fn open(path: &Path) -> Result<Nvml, LoadError> {
    Nvml::begin(Library::open(path)?)
}

/// GPUs that are watched.
#[derive(Debug)]
struct Gpus(Mutex<Vec<GpuSnapshot>>);

impl GpuProbe for Gpus {
    fn read(&self) -> Vec<GpuSnapshot> {
        self.0.lock().clone()
    }
}

impl Gpus {
    /// Reads once before it returns, so that the first page has GPUs.
    fn watch(nvml: Nvml, interval: Duration) -> Result<Arc<Self>, String> {
        let devices: Vec<Watched> = nvml.devices().into_iter().map(|device| Watched::new(&nvml, device)).collect();
        let read = move || devices.iter().map(|device| device.read(&nvml)).collect();
        let gpus = Arc::new(Self(Mutex::new(read())));
        let watched: Weak<Self> = Arc::downgrade(&gpus);
        let thread = thread::Builder::new().name("gpu metrics".into()).spawn(move || {
            loop {
                thread::park_timeout(interval); // nobody unparks it
                let now = read();
                let Some(gpus) = watched.upgrade() else { return };
                *gpus.0.lock() = now;
            }
        });
        thread.map(|_| gpus).map_err(|error| format!("no thread can be started to watch GPUs: {error}"))
    }
}

/// One GPU, and how much energy it had used when it was seen first.
struct Watched {
    device: Device,
    uuid: String,
    energy_before: Option<u64>,
}

impl Watched {
    fn new(nvml: &Nvml, device: Device) -> Self {
        Self { uuid: nvml.uuid(device).unwrap_or_default(), energy_before: nvml.energy_mj(device), device }
    }

    /// What a GPU does not tell is not there.
    fn read(&self, nvml: &Nvml) -> GpuSnapshot {
        let memory = nvml.memory(self.device);
        let watts = |milliwatts: u32| f64::from(milliwatts) / 1000.0;
        let energy = nvml.energy_mj(self.device).zip(self.energy_before);
        GpuSnapshot {
            uuid: self.uuid.clone(),
            utilization: nvml.utilization_percent(self.device).map(|percent| f64::from(percent) / 100.0),
            memory_total: memory.map(|memory| memory.total),
            memory_used: memory.map(|memory| memory.used),
            power_usage: nvml.power_usage_mw(self.device).map(watts),
            power_limit: nvml.power_limit_mw(self.device).map(watts),
            energy: energy.map(|(now, before)| now.saturating_sub(before) as f64 / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command, time::Instant};

    use super::*;

    /// A library with the functions of the driver's, of two GPUs: the second tells only who it is.
    fn driver(folder: &Path, more: &str) -> std::path::PathBuf {
        let (source, library) = (folder.join("nvml.c"), folder.join("libnvidia-ml.so.1"));
        fs::write(&source, format!("{more}\n{}", include_str!("../tests/fixtures/nvml.c"))).unwrap();
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
        assert!(compiled.expect("a C compiler is there").success());
        library
    }

    #[test]
    fn gpus_tell_what_they_can() {
        let folder = tempfile::tempdir().unwrap();
        let nvml = open(&driver(folder.path(), "")).unwrap();
        let gpus = Gpus::watch(nvml, Duration::from_millis(1)).unwrap();
        let first = gpus.read();
        let expect = GpuSnapshot {
            uuid: "GPU-0".into(),
            utilization: Some(0.25),
            memory_total: Some(80_000_000_000),
            memory_used: Some(1_000_000_000),
            power_usage: Some(61.5),
            power_limit: Some(700.0),
            energy: first[0].energy,
        };
        assert_eq!(first, [expect, GpuSnapshot { uuid: "GPU-1".into(), ..GpuSnapshot::default() }]);
        // each reading of that driver uses half a joule
        let deadline = Instant::now() + Duration::from_secs(60);
        while gpus.read()[0].energy < Some(5.0) {
            assert!(Instant::now() < deadline, "{:?}", gpus.read());
            thread::yield_now();
        }
    }

    #[test]
    fn a_library_that_does_not_begin_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let error = open(&driver(folder.path(), "#define INIT_FAILS")).err().unwrap().to_string();
        assert!(error.ends_with("is not suitable: nvmlInit_v2 failed: Driver Not Loaded"), "{error}");
        let other = folder.path().join("libother.so");
        fs::write(folder.path().join("other.c"), "int other(void) { return 0; }").unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&other).arg(folder.path().join("other.c"));
        assert!(compiler.status().unwrap().success());
        let error = open(&other).err().unwrap().to_string();
        assert!(error.contains("it does not export nvmlInit_v2"), "{error}");
    }
}
