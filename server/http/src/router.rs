//! The route table: method and path in, route out. The query is ignored.

use std::borrow::Cow;

use http::Method;

/// What a request is for. Names are percent-decoded; versions are the digits as they stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    ServerMetadata,
    ServerLive,
    ServerReady,
    Drain,
    Model { name: Cow<'a, str>, version: &'a str, action: ModelAction },
    AllStatistics,
    TraceSettings,
    Logging,
    RepositoryIndex,
    RepositoryLoad { has_repository: bool, name: Cow<'a, str> },
    RepositoryUnload { has_repository: bool, name: Cow<'a, str> },
    SharedMemory { memory: Memory, region: Option<Cow<'a, str>>, action: MemoryAction },
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelAction {
    Metadata,
    Ready,
    Config,
    Statistics,
    Infer,
    Generate,
    GenerateStream,
    TraceSettings,
}

/// Kinds of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    System,
    Cuda,
}

/// What is asked of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryAction {
    Status,
    Register,
    Unregister,
}

/// Why there is no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteError {
    NotFound,
    MethodNotAllowed,
}

/// Finds the route.
///
/// Errors: `NotFound` if no such path is served, `MethodNotAllowed` if it is, with another method.
pub(crate) fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, RouteError> {
    let (route, methods) = find(path).ok_or(RouteError::NotFound)?;
    if methods.contains(method) { Ok(route) } else { Err(RouteError::MethodNotAllowed) }
}

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const BOTH: &[Method] = &[Method::GET, Method::POST];

/// The route of a path, and the methods that it has.
pub(crate) fn find(path: &str) -> Option<(Route<'_>, &'static [Method])> {
    let rest = path.strip_prefix("/v2")?;
    if let Some(rest) = rest.strip_prefix("/models/") {
        return if rest == "stats" { Some((Route::AllStatistics, GET)) } else { model(rest) };
    }
    Some(match rest {
        "" => (Route::ServerMetadata, GET),
        "/health/live" => (Route::ServerLive, GET),
        "/health/ready" => (Route::ServerReady, GET),
        "/health/drain" => (Route::Drain, POST),
        "/trace/setting" => (Route::TraceSettings, BOTH),
        "/logging" => (Route::Logging, BOTH),
        _ => {
            return None
                .or_else(|| repository(rest.strip_prefix("/repository/")?))
                .or_else(|| shared_memory(Memory::System, rest.strip_prefix("/systemsharedmemory/")?))
                .or_else(|| shared_memory(Memory::Cuda, rest.strip_prefix("/cudasharedmemory/")?));
        }
    })
}

/// `{m}[/versions/{v}][/ACTION]`
fn model(rest: &str) -> Option<(Route<'_>, &'static [Method])> {
    let (name, rest) = segment(rest)?;
    let (version, action) = match rest.strip_prefix("versions/") {
        Some(rest) => {
            let (version, action) = segment(rest)?;
            if !version.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            (version, action)
        }
        None => ("", rest),
    };
    let (action, methods) = match action {
        "" => (ModelAction::Metadata, GET),
        "ready" => (ModelAction::Ready, GET),
        "config" => (ModelAction::Config, GET),
        "stats" => (ModelAction::Statistics, GET),
        "infer" => (ModelAction::Infer, POST),
        "generate" => (ModelAction::Generate, POST),
        "generate_stream" => (ModelAction::GenerateStream, POST),
        "trace/setting" if version.is_empty() => (ModelAction::TraceSettings, BOTH),
        _ => return None,
    };
    Some((Route::Model { name: decode(name), version, action }, methods))
}

/// `[{r}/]index`, `[{r}/]models/{m}/load`, `[{r}/]models/{m}/unload`
fn repository(rest: &str) -> Option<(Route<'_>, &'static [Method])> {
    let named = segment(rest).and_then(|(_, rest)| repository_action(rest, true));
    named.or_else(|| repository_action(rest, false))
}

fn repository_action(rest: &str, has_repository: bool) -> Option<(Route<'_>, &'static [Method])> {
    if rest == "index" {
        return Some((Route::RepositoryIndex, POST));
    }
    let (name, action) = segment(rest.strip_prefix("models/")?)?;
    let name = decode(name);
    match action {
        "load" => Some((Route::RepositoryLoad { has_repository, name }, POST)),
        "unload" => Some((Route::RepositoryUnload { has_repository, name }, POST)),
        _ => None,
    }
}

/// `[region/{r}/]ACTION`
fn shared_memory(memory: Memory, rest: &str) -> Option<(Route<'_>, &'static [Method])> {
    let (region, action) = match rest.strip_prefix("region/") {
        Some(rest) => {
            let (region, action) = segment(rest)?;
            (Some(decode(region)), action)
        }
        None => (None, rest),
    };
    let (action, methods) = match action {
        "status" => (MemoryAction::Status, GET),
        "register" => (MemoryAction::Register, POST),
        "unregister" => (MemoryAction::Unregister, POST),
        _ => return None,
    };
    Some((Route::SharedMemory { memory, region, action }, methods))
}

/// The first segment, and what follows its slash. A segment is not empty, and a slash is followed by something.
fn segment(path: &str) -> Option<(&str, &str)> {
    match path.split_once('/') {
        Some((first, rest)) if !first.is_empty() && !rest.is_empty() => Some((first, rest)),
        None if !path.is_empty() => Some((path, "")),
        _ => None,
    }
}

/// Undoes percent-encoding. What is no valid encoding stays as it is.
fn decode(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digit = |at: usize| char::from(tail.get(at).copied().unwrap_or(0)).to_digit(16);
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(decoded).map_or(Cow::Borrowed(segment), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes_to(method: Method, path: &str, expect: &Route<'_>) {
        assert_eq!(route(&method, path).as_ref(), Ok(expect), "{method} {path}");
    }

    fn model(name: &'static str, version: &'static str, action: ModelAction) -> Route<'static> {
        Route::Model { name: name.into(), version, action }
    }

    #[test]
    fn every_path_of_the_protocol_has_its_route() {
        let (get, post) = (Method::GET, Method::POST);
        goes_to(get.clone(), "/v2", &Route::ServerMetadata);
        goes_to(get.clone(), "/v2/health/live", &Route::ServerLive);
        goes_to(get.clone(), "/v2/health/ready", &Route::ServerReady);
        goes_to(get.clone(), "/v2/models/stats", &Route::AllStatistics);
        for (tail, method, action) in [
            ("", &get, ModelAction::Metadata),
            ("/ready", &get, ModelAction::Ready),
            ("/config", &get, ModelAction::Config),
            ("/stats", &get, ModelAction::Statistics),
            ("/infer", &post, ModelAction::Infer),
            ("/generate", &post, ModelAction::Generate),
            ("/generate_stream", &post, ModelAction::GenerateStream),
        ] {
            goes_to(method.clone(), &format!("/v2/models/m{tail}"), &model("m", "", action));
            goes_to(method.clone(), &format!("/v2/models/m/versions/12{tail}"), &model("m", "12", action));
        }
        goes_to(get.clone(), "/v2/models/stats/stats", &model("stats", "", ModelAction::Statistics));
        for method in [&get, &post] {
            goes_to(method.clone(), "/v2/models/m/trace/setting", &model("m", "", ModelAction::TraceSettings));
            goes_to(method.clone(), "/v2/trace/setting", &Route::TraceSettings);
            goes_to(method.clone(), "/v2/logging", &Route::Logging);
        }
        goes_to(post.clone(), "/v2/repository/index", &Route::RepositoryIndex);
        goes_to(post.clone(), "/v2/repository/r/index", &Route::RepositoryIndex);
        let name: Cow<'_, str> = "m".into();
        for (path, has_repository) in [("/v2/repository/models/m", false), ("/v2/repository/r/models/m", true)] {
            let (load, unload) = (format!("{path}/load"), format!("{path}/unload"));
            goes_to(post.clone(), &load, &Route::RepositoryLoad { has_repository, name: name.clone() });
            goes_to(post.clone(), &unload, &Route::RepositoryUnload { has_repository, name: name.clone() });
        }
        let model_called_models = Route::RepositoryLoad { has_repository: false, name: "models".into() };
        goes_to(post.clone(), "/v2/repository/models/models/load", &model_called_models);
        for (prefix, memory) in [("/v2/systemsharedmemory", Memory::System), ("/v2/cudasharedmemory", Memory::Cuda)] {
            for (action, method, tail) in [
                (MemoryAction::Status, &get, "status"),
                (MemoryAction::Register, &post, "register"),
                (MemoryAction::Unregister, &post, "unregister"),
            ] {
                let all = Route::SharedMemory { memory, region: None, action };
                goes_to(method.clone(), &format!("{prefix}/{tail}"), &all);
                let one = Route::SharedMemory { memory, region: Some("a b".into()), action };
                goes_to(method.clone(), &format!("{prefix}/region/a%20b/{tail}"), &one);
            }
        }
    }

    #[test]
    fn other_paths_are_not_found() {
        for path in [
            "/",
            "",
            "/v2/",
            "/v3",
            "/v2/health",
            "/v2/models",
            "/v2/models/",
            "/v2/models//infer",
            "/v2/models/m/",
            "/v2/models/m/nothing",
            "/v2/models/m/versions",
            "/v2/models/m/versions/",
            "/v2/models/m/versions/x",
            "/v2/models/m/versions/1/",
            "/v2/models/m/versions/1/trace/setting",
            "/v2/models/m/infer/more",
            "/base/v2/models/m",
            "/v2/repository",
            "/v2/repository/models/m",
            "/v2/repository//index",
            "/v2/repository/models//load",
            "/v2/systemsharedmemory/region/status",
            "/v2/systemsharedmemory",
        ] {
            assert_eq!(route(&Method::GET, path), Err(RouteError::NotFound), "{path}");
        }
    }

    #[test]
    fn other_methods_are_not_allowed() {
        for (method, path) in [
            (Method::POST, "/v2"),
            (Method::GET, "/v2/models/m/infer"),
            (Method::HEAD, "/v2/health/live"),
            (Method::GET, "/v2/repository/index"),
            (Method::PUT, "/v2/logging"),
            (Method::POST, "/v2/systemsharedmemory/status"),
        ] {
            assert_eq!(route(&method, path), Err(RouteError::MethodNotAllowed), "{method} {path}");
        }
    }

    #[test]
    fn names_are_decoded_once() {
        for (path, name) in [
            ("/v2/models/a%20b%2Fc", "a b/c"),
            ("/v2/models/%E4%B8%AD", "中"),
            ("/v2/models/100%", "100%"),
            ("/v2/models/%zz%2", "%zz%2"),
            ("/v2/models/%2541", "%41"),
            ("/v2/models/%ff", "%ff"),
        ] {
            let Ok(Route::Model { name: found, .. }) = route(&Method::GET, path) else { panic!("{path} has no route") };
            assert_eq!(found, name);
        }
    }
}
