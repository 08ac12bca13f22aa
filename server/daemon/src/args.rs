//! The command line: Triton's flags, forms and defaults, read from words into [`Args`] (`args/parsed.rs`). Pure: nothing is opened here.
//!
//! The table in `args/table.rs` knows every flag; `args/getopt.rs` takes the line apart; `args/defaults.rs` says what holds without a flag; this file applies one to the
//! other and checks what no single flag can.

mod cache;
mod defaults;
mod endpoint;
mod error;
mod flag;
mod getopt;
mod parsed;
mod refused;
mod setting;
mod table;
mod tracing;
mod usage;
mod value;
mod vertex_ai;

use std::{collections::BTreeSet, ffi::OsString, path::PathBuf};

pub(crate) use server_core::log_settings::LogFormat;
use server_core::{latency::LatencySettings, restriction::ApiGroup};
use server_engine::Location;

pub(crate) use self::{
    cache::CacheArgs,
    endpoint::{Endpoint, TlsArgs},
    error::ArgsError,
    parsed::{
        Args, Compression, ControlArgs, ControlMode, GpuFallback, GrpcArgs, HttpArgs, LogArgs, ModelArgs, RateLimit,
        VertexAiArgs,
    },
    setting::{HostPolicySetting, LimitedResource, MetricsSetting, Restriction, Setting},
    tracing::TraceArgs,
    usage::usage,
};
use self::{
    flag::{Effect, Flag},
    refused::Refused,
    value::PORTS,
};
use crate::service::Service;

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Serve.
    Run(Box<Args>),
    /// Show the usage text.
    Help,
    /// Show the version.
    Version,
}

/// What a host policy may say.
const HOST_POLICY_SETTINGS: [&str; 2] = ["numa-node", "cpu-cores"];

/// The words after the program's name, behind those that the environment stands for. Errors: one is not text.
pub(crate) fn words() -> Result<Vec<String>, ArgsError> {
    let words = std::env::args_os().skip(1).map(OsString::into_string);
    let given = words.collect::<Result<Vec<_>, _>>();
    let given = given.map_err(|word| ArgsError::NotText(word.to_string_lossy().into_owned()))?;
    Ok(vertex_ai::flags(|name| std::env::var(name).ok(), &given).into_iter().chain(given).collect())
}

/// Reads a command line, the program's name left out.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Command, ArgsError> {
    let names: Vec<_> = table::flags().map(|flag| (flag.name, flag.takes())).collect();
    let mut args = Args::default();
    for given in getopt::split(words, &names)? {
        let flag = table::flags().find(|flag| flag.name == given.name).expect("getopt only gives names of the table");
        match apply(flag, &given.value, &mut args)? {
            None => {}
            Some(command) => return Ok(command),
        }
    }
    args.settle()?;
    Ok(Command::Run(Box::new(args)))
}

fn apply(flag: &'static Flag, text: &str, args: &mut Args) -> Result<Option<Command>, ArgsError> {
    let refused = |refused| ArgsError::Value { flag: flag.name, text: text.to_owned(), refused };
    match flag.effect {
        Effect::Set(set) => set(args, text).map_err(refused)?,
        Effect::Unused(check) => {
            check(text).map_err(refused)?;
            if !flag.is_default(text) && !args.unsupported_flags.contains(&flag.name) {
                args.unsupported_flags.push(flag.name);
            }
        }
        Effect::Help => return Ok(Some(Command::Help)),
        Effect::Version => return Ok(Some(Command::Version)),
    }
    Ok(None)
}

/// Each category is known and belongs to one group.
fn check_restrictions(flag: &'static str, kind: &'static str, restrictions: &[Restriction]) -> Result<(), ArgsError> {
    let mut seen = BTreeSet::new();
    for category in restrictions.iter().flat_map(|restriction| &restriction.categories) {
        if ApiGroup::from_name(category).is_none() {
            return Err(ArgsError::UnknownCategory { flag, kind, category: category.clone() });
        }
        if !seen.insert(category) {
            return Err(ArgsError::RepeatedCategory { flag, kind, category: category.clone() });
        }
    }
    Ok(())
}

// === impl Args ===

impl Args {
    /// What no flag can say alone: defaults that follow another flag, and combinations that make no sense.
    fn settle(&mut self) -> Result<(), ArgsError> {
        if self.metrics.address.is_empty() {
            self.metrics.address.clone_from(&self.http.endpoint.address);
        }
        let models = &mut self.models;
        if models.repositories.is_empty() {
            return Err(ArgsError::NoRepository);
        }
        let is_url = |path: &PathBuf| Location::is_url(&path.to_string_lossy());
        for url in models.repositories.extract_if(.., |path| is_url(path)) {
            models.remote_repositories.insert(Location::parse(&url.to_string_lossy())?);
        }
        if models.control_mode != ControlMode::Explicit && !models.startup_models.is_empty() {
            return Err(ArgsError::StartupModels);
        }
        if models.startup_models.len() > 1 && models.startup_models.contains("*") {
            return Err(ArgsError::Wildcard);
        }
        let settings = models.host_policies.iter().map(|setting| &setting.key);
        if let Some(unknown) = settings.into_iter().find(|key| !HOST_POLICY_SETTINGS.contains(&key.as_str())) {
            return Err(ArgsError::HostPolicySetting(unknown.clone()));
        }
        let (http, grpc, metrics) = (&self.http.endpoint, &self.grpc.endpoint, &self.metrics);
        let endpoints = [http, grpc, metrics, &self.sagemaker.endpoint, &self.vertex_ai.endpoint];
        if endpoints.iter().all(|endpoint| !endpoint.is_allowed) {
            return Err(ArgsError::NoEndpoint);
        }
        self.cache.configs()?;
        self.deprecations.extend(self.tracing.settle());
        let settings = self.metrics_settings.iter();
        let pairs: Vec<_> = settings.map(MetricsSetting::pair).collect::<Result<_, _>>()?;
        self.latency = LatencySettings::parse(pairs)?;
        check_restrictions("http-restricted-api", "api", &self.http.restrictions)?;
        check_restrictions("grpc-restricted-protocol", "protocol", &self.grpc.restrictions)?;
        let front_ends = [
            (Service::Http, &self.http.endpoint, &self.http.tls),
            (Service::Grpc, &self.grpc.endpoint, &self.grpc.tls),
            (Service::Metrics, &self.metrics, &self.metrics_tls),
        ];
        for (service, _, tls) in front_ends.into_iter().filter(|(_, endpoint, _)| endpoint.is_allowed) {
            tls.check(service.name())?;
        }
        self.check_ports()
    }

    fn check_ports(&self) -> Result<(), ArgsError> {
        let endpoints = [
            (Service::Http, &self.http.endpoint),
            (Service::Grpc, &self.grpc.endpoint),
            (Service::Metrics, &self.metrics),
            (Service::SageMaker, &self.sagemaker.endpoint),
            (Service::VertexAi, &self.vertex_ai.endpoint),
        ];
        let allowed: Vec<_> = endpoints.into_iter().filter(|(_, endpoint)| endpoint.is_allowed).collect();
        for (service, endpoint) in &allowed {
            if let Some(port) = endpoint.impossible_port {
                let (flag, text) = (service.port_flag(), port.to_string());
                let refused = Refused::number(&text, true).expected(PORTS);
                return Err(ArgsError::Value { flag, text, refused });
            }
        }
        if let Some((first, last)) = self.sagemaker.safe_ports.filter(|_| self.sagemaker.endpoint.is_allowed) {
            let outside = |(service, endpoint): &&(Service, &Endpoint)| {
                *service != Service::SageMaker && !(first..=last).contains(&endpoint.port)
            };
            if let Some((service, endpoint)) = allowed.iter().find(outside) {
                return Err(ArgsError::UnsafePort(service.requests(), endpoint.port, first, last));
            }
        }
        for (index, (one, a)) in allowed.iter().enumerate() {
            for (other, b) in &allowed[index + 1..] {
                if a.clashes_with(b) {
                    let (one, other) = (one.requests(), other.requests());
                    return Err(ArgsError::PortClash(one, other, a.address.clone(), a.port));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
