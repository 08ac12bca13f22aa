//! Trace settings and log settings: read, and changed while the server runs.

use server_core::{
    error::{Error, Result},
    log_settings::{self, LogUpdate},
    trace::settings::Update,
};
use server_engine::Engine;
use server_proto::inference::{
    LogSettingsRequest, LogSettingsResponse, TraceSettingRequest, TraceSettingResponse, log_settings_request,
    log_settings_response, trace_setting_request::SettingValue, trace_setting_response,
};

/// The trace settings of the server, or of a model, after the changes that the request asks for.
///
/// Errors: the model is unknown, or a change is wrong.
pub(crate) fn trace(engine: &Engine, request: &TraceSettingRequest) -> Result<TraceSettingResponse> {
    let model = match request.model_name.as_str() {
        "" => None,
        name => Some(engine.traced_model(name)?),
    };
    let update = trace_update(|name| request.settings.get(name))?;
    if update != Update::default() {
        engine.tracer().update(model.as_deref(), &update)?;
    }
    let settings = engine.tracer().settings(model.as_deref()).into_iter().map(|(name, values)| {
        let value = values.into_iter().map(std::borrow::Cow::into_owned).collect();
        (name.into_owned(), trace_setting_response::SettingValue { value })
    });
    Ok(TraceSettingResponse { settings: settings.collect() })
}

/// The fields in the order in which Triton looks at them: of several faults the first is told.
fn trace_update<'a>(find: impl Fn(&str) -> Option<&'a SettingValue>) -> Result<Update> {
    let mut update = Update::default();
    for name in ["trace_file", "trace_level", "trace_rate", "trace_count", "log_frequency"] {
        let Some(SettingValue { value: values }) = find(name) else { continue };
        match (name, values.as_slice()) {
            ("trace_level", []) => update.levels = Some(None),
            ("trace_level", values) => update.take_levels(values.iter().map(String::as_str))?,
            ("trace_file", _) | (_, []) => update.take(name, None, " ")?,
            (_, [value]) => update.take(name, Some(value), " ")?,
            _ => return Err(Error::invalid_argument(format!("expect only 1 value for '{name}'"))),
        }
    }
    Ok(update)
}

/// The log settings, after the changes that the request asks for.
///
/// Errors: a change is wrong.
pub(crate) fn log(engine: &Engine, request: &LogSettingsRequest) -> Result<LogSettingsResponse> {
    let settings = engine.log_settings();
    let update = log_update(|name| request.settings.get(name))?;
    if update != LogUpdate::default() {
        settings.update(&update);
    }
    let values = settings.values();
    use log_settings_response::{SettingValue, setting_value::ParameterChoice};
    let of = |name: &str, choice| (name.to_owned(), SettingValue { parameter_choice: Some(choice) });
    Ok(LogSettingsResponse {
        settings: [
            of("log_file", ParameterChoice::StringParam(settings.file().to_owned())),
            of("log_info", ParameterChoice::BoolParam(values.info)),
            of("log_warning", ParameterChoice::BoolParam(values.warning)),
            of("log_error", ParameterChoice::BoolParam(values.error)),
            of("log_verbose_level", ParameterChoice::Uint32Param(values.verbose)),
            of("log_format", ParameterChoice::StringParam(values.format.name().to_owned())),
        ]
        .into(),
    })
}

fn log_update<'a>(find: impl Fn(&str) -> Option<&'a log_settings_request::SettingValue>) -> Result<LogUpdate> {
    use log_settings_request::setting_value::ParameterChoice;
    let expected = |kind: &str, name: &str| Error::invalid_argument(format!("expect {kind} for '{name}'"));
    let mut update = LogUpdate::default();
    if find("log_file").is_some() {
        return Err(log_settings::file());
    }
    for name in ["log_info", "log_warning", "log_error"] {
        match (find(name).map(|value| &value.parameter_choice), update.switch(name)) {
            (Some(Some(ParameterChoice::BoolParam(value))), Some(switch)) => *switch = Some(*value),
            (Some(_), _) => return Err(expected("boolean", name)),
            (None, _) => {}
        }
    }
    match find("log_verbose_level").map(|value| &value.parameter_choice) {
        Some(Some(ParameterChoice::Uint32Param(level))) => update.verbose = Some(*level),
        Some(_) => return Err(expected("int32", "log_verbose_level")),
        None => {}
    }
    match find("log_format").map(|value| &value.parameter_choice) {
        Some(Some(ParameterChoice::StringParam(name))) => {
            update.format = Some(log_settings::format(name, Error::invalid_argument, "log_format")?);
        }
        Some(_) => return Err(expected("string", "log_format")),
        None => {}
    }
    Ok(update)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_one_value_and_none_clears_it() {
        let update = |name: &'static str, values: &[&str]| {
            let value = SettingValue { value: values.iter().map(|value| (*value).to_owned()).collect() };
            trace_update(|asked| (asked == name).then_some(&value)).map_err(|error| error.message)
        };
        assert_eq!(update("trace_rate", &["5"]).map(|update| update.rate), Ok(Some(Some(5))));
        assert_eq!(update("trace_rate", &[]).map(|update| update.rate), Ok(Some(None)));
        assert_eq!(update("trace_rate", &["5", "6"]), Err("expect only 1 value for 'trace_rate'".into()));
        assert_eq!(update("trace_level", &[]).map(|update| update.levels), Ok(Some(None)));
        assert_eq!(update("trace_level", &[""]), Ok(Update::default()));
        let text = "Unable to parse 'trace_count'. Expecting value >= -1, got: -2";
        assert_eq!(update("trace_count", &["-2"]), Err(text.into()));
        let text = "trace file location can not be updated through network protocol";
        assert_eq!(update("trace_file", &["a", "b"]), Err(text.into()));
        assert_eq!(update("unknown", &["a", "b"]), Ok(Update::default()));
    }

    #[test]
    fn log_settings_have_types() {
        use log_settings_request::{SettingValue, setting_value::ParameterChoice};
        let update = |name: &'static str, choice: Option<ParameterChoice>| {
            let value = SettingValue { parameter_choice: choice };
            log_update(|asked| (asked == name).then_some(&value)).map_err(|error| error.message)
        };
        let text = || Some(ParameterChoice::StringParam("x".into()));
        assert_eq!(update("log_info", text()), Err("expect boolean for 'log_info'".into()));
        assert_eq!(update("log_error", None), Err("expect boolean for 'log_error'".into()));
        assert_eq!(update("log_verbose_level", text()), Err("expect int32 for 'log_verbose_level'".into()));
        let one = Some(ParameterChoice::Uint32Param(1));
        assert_eq!(update("log_format", one), Err("expect string for 'log_format'".into()));
        assert_eq!(update("log_format", text()), Err("invalid argument for log_format, got: x".into()));
        let file = "log file location can not be updated through network protocol";
        assert_eq!(update("log_file", None), Err(file.into()));
        assert_eq!(update("unknown", text()), Ok(LogUpdate::default()));
    }
}
