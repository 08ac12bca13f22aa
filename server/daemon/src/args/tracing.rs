//! `--trace-config`, and the older flags that say the same: which requests are traced, and what becomes of it.

use server_core::trace::{
    Mode, Text,
    settings::{Update, Values},
};

use super::{refused::Refused, setting::Setting};

/// Settings of tracing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TraceArgs {
    pub(crate) mode: Mode,
    pub(crate) values: Values,
    /// The trace file; empty for none.
    pub(crate) file: String,
    /// The collector, where it is not the one beside the program.
    pub(crate) url: Option<String>,
    /// What spans say of the program.
    pub(crate) resource: Vec<(String, String)>,
    pub(crate) batches: Batches,
    /// What `--trace-config` says, by the older flags that say the same.
    newer: Vec<&'static str>,
    /// What older flags say, until all flags are known.
    older: Vec<(&'static str, Setting)>,
}

impl Default for TraceArgs {
    fn default() -> Self {
        Self {
            mode: Mode::Triton,
            values: Values::default(),
            file: String::new(),
            url: None,
            resource: Vec::new(),
            batches: Batches::default(),
            newer: Vec::new(),
            older: Vec::new(),
        }
    }
}

/// How spans are gathered before they are sent, as far as anything says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Batches {
    max_queue_size: Option<u32>,
    /// Milliseconds.
    schedule_delay: Option<u32>,
    max_export_batch_size: Option<u32>,
}

impl Batches {
    pub(crate) fn max_queue_size(&self) -> u32 {
        self.max_queue_size.unwrap_or(2048)
    }

    /// Units: milliseconds.
    pub(crate) fn schedule_delay(&self) -> u32 {
        self.schedule_delay.unwrap_or(5000)
    }

    pub(crate) fn max_export_batch_size(&self) -> u32 {
        self.max_export_batch_size.unwrap_or(512)
    }

    /// Takes from the environment what no flag has set. Returns what of it is no such number, and is left.
    ///
    /// Source: OpenTelemetry, "Environment variable specification", batch span processor.
    pub(crate) fn fill(&mut self, variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let mut left = Vec::new();
        for (name, value) in [
            ("OTEL_BSP_MAX_QUEUE_SIZE", &mut self.max_queue_size),
            ("OTEL_BSP_SCHEDULE_DELAY", &mut self.schedule_delay),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &mut self.max_export_batch_size),
        ] {
            let Some(text) = variable(name).filter(|text| value.is_none() && !text.is_empty()) else { continue };
            match positive(&text) {
                Ok(number) => *value = Some(number),
                Err(_) => left.push(format!("{name} is '{text}' and ignored: expected {POSITIVE}")),
            }
        }
        left
    }
}

/// Every setting, for whom there is none of.
const KNOWN: &str = "one of level, rate, count, mode; triton,file and triton,log-frequency; opentelemetry,url, \
                     opentelemetry,resource, opentelemetry,bsp_max_queue_size, opentelemetry,bsp_schedule_delay and \
                     opentelemetry,bsp_max_export_batch_size";

impl TraceArgs {
    /// Takes a setting over.
    ///
    /// Errors: there is no such setting, or its value is none.
    pub(crate) fn take(&mut self, setting: &Setting) -> Result<(), Refused> {
        self.newer.extend(older_flag(setting));
        self.set(setting)
    }

    /// The same, of a flag that has a successor. It counts once [`TraceArgs::settle`] knows all flags.
    pub(crate) fn take_older(&mut self, flag: &'static str, setting: Setting) -> Result<(), Refused> {
        self.clone().set(&setting).map_err(Refused::of_flag)?;
        self.older.push((flag, setting));
        Ok(())
    }

    /// Takes over what older flags say and `--trace-config` does not: levels add up, but an older flag that says OFF wins over
    /// all. Returns what is to be told of flags that do not count.
    ///
    /// Source: Triton, `PostProcessTraceArgs` of its command line.
    pub(crate) fn settle(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        let mut is_off = false;
        for (flag, setting) in std::mem::take(&mut self.older) {
            let is_of_file = setting.name.is_some();
            if is_of_file && self.mode == Mode::OpenTelemetry {
                told.push(format!(
                    "Warning: '--{flag}' is deprecated and will be ignored with opentelemetry tracing mode."
                ));
                continue;
            }
            let is_overridden = self.newer.contains(&flag);
            if is_overridden {
                let what = if setting.key == "rate" { "rate value" } else { &setting.key };
                told.push(format!(
                    "Warning: Overriding deprecated '--{flag}' in favor of provided {what} in --trace-config!"
                ));
            }
            let is_level = setting.key == "level";
            is_off |= is_level && is_off_level(&setting.value);
            if is_level || !is_overridden {
                let _ = self.set(&setting); // checked when it was taken
            }
        }
        if is_off {
            (self.values.has_times, self.values.has_tensors) = (false, false);
        }
        told
    }

    fn set(&mut self, setting: &Setting) -> Result<(), Refused> {
        let Setting { name, key, value } = setting;
        let outcome = match (name.as_deref(), key.as_str()) {
            (None, "level") => self.level(value),
            (None, "mode") => mode(value).map(|mode| self.mode = mode),
            (None, "rate") => self.number("trace_rate", value),
            (None, "count") => self.number("trace_count", value),
            (Some("triton"), "log-frequency") => self.number("log_frequency", value),
            (Some("triton"), "file") => {
                self.file.clone_from(value);
                Ok(())
            }
            (Some("opentelemetry"), "url") => {
                self.url = Some(value.clone());
                Ok(())
            }
            (Some("opentelemetry"), "resource") => attribute(value).map(|attribute| self.resource.push(attribute)),
            (Some("opentelemetry"), "bsp_max_queue_size") => {
                positive(value).map(|size| self.batches.max_queue_size = Some(size))
            }
            (Some("opentelemetry"), "bsp_schedule_delay") => {
                positive(value).map(|delay| self.batches.schedule_delay = Some(delay))
            }
            (Some("opentelemetry"), "bsp_max_export_batch_size") => {
                positive(value).map(|size| self.batches.max_export_batch_size = Some(size))
            }
            (None | Some("triton" | "opentelemetry"), _) => {
                return Err(Refused::words(format!("unknown setting '{key}'")).expected(KNOWN));
            }
            (Some(mode), _) => return Err(no_mode(mode)),
        };
        let mode = name.as_ref().map(|mode| format!("{mode},")).unwrap_or_default();
        outcome.map_err(|refused| refused.of(format!("{mode}{key}")))
    }

    fn level(&mut self, level: &str) -> Result<(), Refused> {
        let Values { has_times, has_tensors, .. } = &mut self.values;
        match level.to_ascii_lowercase().as_str() {
            _ if is_off_level(level) => {} // as in Triton, where it adds nothing to other levels
            "timestamps" | "min" | "max" | "on" | "true" => *has_times = true,
            "tensors" => *has_tensors = true,
            _ => {
                let words = format!("invalid value for trace level option: {level}");
                return Err(Refused::words(words).expected("a level: OFF, TIMESTAMPS or TENSORS"));
            }
        }
        Ok(())
    }

    fn number(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        let digits = value.strip_prefix('-').unwrap_or(value);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let least = if name == "trace_count" { "-1" } else { "0" };
        let refused =
            || Refused::number(value, is_number).expected(format!("a whole number from {least} to 2147483647"));
        let mut update = Update::default();
        if !is_number || (value.starts_with('-') && name != "trace_count") {
            return Err(refused());
        }
        update.take(name, Some(value), "").map_err(|_| refused())?;
        self.values = update.apply(self.values, self.values);
        Ok(())
    }

    /// What settings show besides their values, in Triton's order.
    pub(crate) fn shown(&self) -> Vec<(Text, String)> {
        match self.mode {
            Mode::Triton => {
                vec![("trace_file".into(), self.file.clone()), ("trace_mode".into(), "triton".into())]
            }
            Mode::OpenTelemetry => {
                let mut shown: Vec<(Text, String)> = vec![("trace_mode".into(), "opentelemetry".into())];
                shown.extend(self.url.clone().map(|url| ("url".into(), url)));
                let resource: Vec<String> = self.resource.iter().map(|(key, value)| format!("{key}={value}")).collect();
                if !resource.is_empty() {
                    shown.push(("resource".into(), resource.join(",")));
                }
                shown.extend([
                    ("bsp_schedule_delay".into(), self.batches.schedule_delay().to_string()),
                    ("bsp_max_export_batch_size".into(), self.batches.max_export_batch_size().to_string()),
                    ("bsp_max_queue_size".into(), self.batches.max_queue_size().to_string()),
                ]);
                shown
            }
        }
    }
}

/// The older flag that says what a setting says.
fn older_flag(setting: &Setting) -> Option<&'static str> {
    Some(match (setting.name.as_deref(), setting.key.as_str()) {
        (None, "level") => "trace-level",
        (None, "rate") => "trace-rate",
        (None, "count") => "trace-count",
        (Some("triton"), "file") => "trace-file",
        (Some("triton"), "log-frequency") => "trace-log-frequency",
        _ => return None,
    })
}

fn is_off_level(level: &str) -> bool {
    ["off", "false"].iter().any(|off| level.eq_ignore_ascii_case(off))
}

fn mode(text: &str) -> Result<Mode, Refused> {
    match text.to_ascii_lowercase().as_str() {
        "triton" => Ok(Mode::Triton),
        "opentelemetry" => Ok(Mode::OpenTelemetry),
        _ => Err(no_mode(text)),
    }
}

fn no_mode(text: &str) -> Refused {
    Refused::words(format!(
        "invalid value for trace mode option: {text}. Available options are \"triton\" and \"opentelemetry\""
    ))
}

/// What spans say of the program.
fn attribute(text: &str) -> Result<(String, String), Refused> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let refused = || Refused::words(format!("Invalid option value. Got {text}"));
    let (key, value) = pair.ok_or_else(|| refused().expected("opentelemetry,resource=<key>=<value>"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What a positive number may be.
const POSITIVE: &str = "a whole number from 1 to 4294967295";

fn positive(text: &str) -> Result<u32, Refused> {
    let number: Result<u32, _> = text.parse();
    let is_number = number.is_ok();
    number.ok().filter(|number| *number > 0).ok_or_else(|| Refused::number(text, is_number).expected(POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<TraceArgs, Refused> {
        let mut args = TraceArgs::default();
        for text in texts {
            args.take(&Setting::of_trace(text)?)?;
        }
        Ok(args)
    }

    #[test]
    fn settings_add_up() {
        let args = read(&[
            "level=TIMESTAMPS",
            "level=TENSORS",
            "rate=5",
            "count=-1",
            "triton,file=/t",
            "triton,log-frequency=3",
        ]);
        let values = Values { has_times: true, has_tensors: true, rate: 5, count: -1, log_frequency: 3 };
        let args = args.unwrap();
        assert_eq!((args.values, args.mode), (values, Mode::Triton));
        assert_eq!(args.shown(), [("trace_file".into(), "/t".to_owned()), ("trace_mode".into(), "triton".to_owned())]);
    }

    #[test]
    fn a_collector_has_settings_of_its_own() {
        let args = read(&["mode=opentelemetry", "opentelemetry,resource=a=b=c", "opentelemetry,bsp_schedule_delay=7"])
            .unwrap();
        assert_eq!(args.resource, [("a".to_owned(), "b=c".to_owned())]);
        let shown: Vec<String> = args.shown().iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let expect = [
            "trace_mode:opentelemetry",
            "resource:a=b=c",
            "bsp_schedule_delay:7",
            "bsp_max_export_batch_size:512",
            "bsp_max_queue_size:2048",
        ];
        assert_eq!(shown, expect);
    }

    #[test]
    fn levels_and_modes_are_read_in_any_case() {
        let levels = |texts: &[&str]| {
            let values = read(texts).unwrap().values;
            (values.has_times, values.has_tensors)
        };
        for on in ["level=timestamps", "level=Min", "level=MAX", "level=on", "level=TRUE"] {
            assert_eq!(levels(&[on]), (true, false), "{on}");
        }
        for off in ["level=off", "level=False"] {
            assert_eq!(levels(&[off]), (false, false), "{off}");
            assert_eq!(levels(&[off, "level=tensors", off]), (false, true), "{off}");
        }
        assert_eq!(read(&["mode=OpenTelemetry"]).unwrap().mode, Mode::OpenTelemetry);
        assert_eq!(read(&["mode=opentelemetry", "mode=TRITON"]).unwrap().mode, Mode::Triton);
    }

    #[test]
    fn older_flags_count_where_newer_ones_say_nothing() {
        let settled = |newer: &[&str], older: &[(&'static str, &str)]| {
            let mut args = TraceArgs::default();
            for (flag, text) in older {
                args.take_older(flag, Setting::of_trace(text).unwrap()).unwrap();
            }
            for text in newer {
                args.take(&Setting::of_trace(text).unwrap()).unwrap();
            }
            let told = args.settle();
            (args.values, args.file, told)
        };
        let older = [("trace-rate", "rate=5"), ("trace-level", "level=TENSORS"), ("trace-file", "triton,file=/old")];
        let (values, file, told) = settled(&["rate=7", "level=TIMESTAMPS", "triton,file=/new"], &older);
        assert_eq!((values.rate, values.has_times, values.has_tensors, file.as_str()), (7, true, true, "/new"));
        let overriding = |flag: &str, what: &str| {
            format!("Warning: Overriding deprecated '--{flag}' in favor of provided {what} in --trace-config!")
        };
        let expect = [("trace-rate", "rate value"), ("trace-level", "level"), ("trace-file", "file")];
        assert_eq!(told, expect.map(|(flag, what)| overriding(flag, what)));
        let (values, file, told) = settled(&["count=3"], &older);
        assert_eq!((values.rate, values.count, file.as_str(), told.len()), (5, 3, "/old", 0));
        let (values, ..) = settled(&["level=TIMESTAMPS"], &[("trace-level", "level=OFF")]);
        assert!(!values.is_on(), "an older flag that says OFF wins");
        let (_, file, told) = settled(&["mode=opentelemetry"], &older[2..]);
        assert_eq!((file.as_str(), told.len()), ("", 1));
        assert!(TraceArgs::default().take_older("trace-rate", Setting::of_trace("rate=x").unwrap()).is_err());
    }

    #[test]
    fn the_environment_says_what_no_flag_has_said() {
        let mut batches = read(&["opentelemetry,bsp_schedule_delay=7"]).unwrap().batches;
        let left = batches.fill(|name| match name {
            "OTEL_BSP_MAX_QUEUE_SIZE" => Some("9".to_owned()),
            "OTEL_BSP_SCHEDULE_DELAY" => Some("8".to_owned()),
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" => Some("0".to_owned()),
            _ => None,
        });
        assert_eq!((batches.max_queue_size(), batches.schedule_delay(), batches.max_export_batch_size()), (9, 7, 512));
        let text = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is '0' and ignored: expected a whole number from 1 to 4294967295";
        assert_eq!(left, [text]);
    }
}
