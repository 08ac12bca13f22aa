//! What the command line says of the response cache, read into what can be made of it. Pure.
//!
//! Source: Triton's caches `local` and `redis`, whose words these are where they have any.

use std::time::Duration;

use server_core::error::{Error, Result};

/// `--cache-config`: one cache and its settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// Which kind of cache.
    pub name: String,
    /// Its settings, in the order given; the last of two counts.
    pub settings: Vec<(String, String)>,
}

/// Settings of a cache that can be made.
#[derive(Debug, PartialEq)]
pub(super) enum Settings {
    /// In the server's own memory.
    Local {
        /// Most bytes of all entries together.
        size: usize,
    },
    /// In a Redis server.
    Redis(Box<RedisSettings>),
}

/// How to reach a Redis server, and how long to wait for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RedisSettings {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) db: i64,
    /// For a connection to be there.
    pub(super) connect_timeout: Duration,
    /// For an answer.
    pub(super) socket_timeout: Duration,
    /// For a place on a connection that has much to answer.
    pub(super) wait_timeout: Duration,
    /// Connections, at least one.
    pub(super) pool_size: usize,
    pub(super) tls: Option<TlsSettings>,
}

/// Files for an encrypted connection.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct TlsSettings {
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
    pub(super) cacert: Option<String>,
    pub(super) cacert_dir: Option<String>,
    /// The name that Redis's certificate has; its host else.
    pub(super) sni: Option<String>,
}

/// Fewer bytes hold no entry.
const LEAST_SIZE: usize = 128;

/// What `0` and a missing timeout stand for. In Triton they wait for ever, and all requests with them.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// More connections gain nothing: each carries many requests at once.
const MAX_POOL_SIZE: usize = 64;

const REDIS_KEYS: &[&str] = &[
    "host",
    "port",
    "user",
    "password",
    "db",
    "connect_timeout",
    "socket_timeout",
    "wait_timeout",
    "pool_size",
    "tls_enabled",
    "cert",
    "key",
    "cacert",
    "cacert_dir",
    "sni",
];

/// Reads the settings. `environment` looks up variables: user and password may be given there.
///
/// Errors: there is no such cache, a setting is missing or wrong.
pub(super) fn read(config: &CacheConfig, environment: impl Fn(&str) -> Option<String>) -> Result<Settings> {
    match config.name.as_str() {
        "local" => local(config),
        "redis" => redis(config, environment),
        other => Err(Error::invalid_argument(format!(
            "unable to find 'libtritoncache_{other}.so' for cache: the caches of this server are built in: 'local' and \
             'redis'"
        ))),
    }
}

fn setting<'a>(config: &'a CacheConfig, key: &str) -> Option<&'a str> {
    config.settings.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// Settings that nobody knows are ignored, as Triton ignores them, and named.
fn warn_of_unknown(config: &CacheConfig, known: &[&str]) {
    for (key, _) in config.settings.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        tracing::warn!("the response cache '{}' has no setting '{key}': it is ignored", config.name);
    }
}

fn local(config: &CacheConfig) -> Result<Settings> {
    let failed = |why: String| Error::internal(format!("Failed to initialize LocalCache: {why}"));
    warn_of_unknown(config, &["size"]);
    let size = setting(config, "size").ok_or_else(|| {
        Error::invalid_argument("Failed to initialize LocalCache: config didn't contain a valid 'size' field.")
    })?;
    let bytes: usize =
        size.trim().parse().map_err(|_| failed(format!("'size' must be a number of bytes, got '{size}'")))?;
    if bytes < LEAST_SIZE {
        return Err(failed(format!("a 'size' of {bytes} bytes holds nothing: at least {LEAST_SIZE} are needed")));
    }
    Ok(Settings::Local { size: bytes })
}

fn redis(config: &CacheConfig, environment: impl Fn(&str) -> Option<String>) -> Result<Settings> {
    warn_of_unknown(config, REDIS_KEYS);
    let text = |key| setting(config, key).map(str::to_owned);
    let (Some(host), Some(port)) = (text("host"), text("port")) else {
        return Err(Error::invalid_argument(
            "Failed to initialize RedisCache, didn't specify address. Must at a minimum specify 'host' and 'port' in the \
             configuration - e.g. tritonserver --cache-config redis,host=redis --cache-config redis,port=6379 \
             --model-repository=/models ...",
        ));
    };
    let wrong = |key: &str, expected: &str, got: &str| {
        Error::invalid_argument(format!("Failed to initialize RedisCache: '{key}' must be {expected}, got '{got}'"))
    };
    let number = |key: &str, default: u64| match setting(config, key) {
        None => Ok(default),
        Some(text) => text.trim().parse::<u64>().map_err(|_| wrong(key, "a whole number", text)),
    };
    let timeout = |key: &str, default: Duration| match number(key, 0)? {
        0 => Ok::<_, Error>(default),
        milliseconds => Ok(Duration::from_millis(milliseconds)),
    };
    let pool_size = usize::try_from(number("pool_size", 1)?).unwrap_or(usize::MAX);
    if !(1..=MAX_POOL_SIZE).contains(&pool_size) {
        let expected = format!("a number of connections from 1 to {MAX_POOL_SIZE}");
        return Err(wrong("pool_size", &expected, setting(config, "pool_size").unwrap_or_default()));
    }
    let is_encrypted = setting(config, "tls_enabled") == Some("true");
    Ok(Settings::Redis(Box::new(RedisSettings {
        port: port.trim().parse().map_err(|_| wrong("port", "a port", &port))?,
        host,
        user: text("user").or_else(|| environment("TRITONCACHE_REDIS_USERNAME")),
        password: text("password").or_else(|| environment("TRITONCACHE_REDIS_PASSWORD")),
        db: i64::try_from(number("db", 0)?).unwrap_or(i64::MAX),
        connect_timeout: timeout("connect_timeout", DEFAULT_TIMEOUT)?,
        socket_timeout: timeout("socket_timeout", DEFAULT_TIMEOUT)?,
        wait_timeout: timeout("wait_timeout", DEFAULT_TIMEOUT)?,
        pool_size,
        tls: is_encrypted.then(|| TlsSettings {
            cert: text("cert"),
            key: text("key"),
            cacert: text("cacert"),
            cacert_dir: text("cacert_dir"),
            sni: text("sni"),
        }),
    })))
}

#[cfg(test)]
mod tests {
    use server_core::error::Code;

    use super::*;

    fn config(name: &str, settings: &[(&str, &str)]) -> CacheConfig {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        CacheConfig { name: name.into(), settings }
    }

    #[track_caller]
    fn refuses(name: &str, settings: &[(&str, &str)], code: Code, expect: &str) {
        let error = read(&config(name, settings), |_| None).unwrap_err();
        assert_eq!((error.code, error.message.contains(expect)), (code, true), "{error}");
    }

    #[test]
    fn a_local_cache_has_a_size() {
        let of = |size| read(&config("local", &[("size", "1"), ("size", size), ("other", "x")]), |_| None).unwrap();
        assert_eq!(of("1048576"), Settings::Local { size: 1 << 20 });
        assert_eq!(of("128"), Settings::Local { size: 128 });
        let missing = "Failed to initialize LocalCache: config didn't contain a valid 'size' field.";
        refuses("local", &[("foo", "1")], Code::InvalidArgument, missing);
        for size in ["abc", "-1", "1e6", "99999999999999999999999", "1.5"] {
            refuses("local", &[("size", size)], Code::Internal, "Failed to initialize LocalCache: 'size' must be");
        }
        for size in ["0", "127"] {
            refuses("local", &[("size", size)], Code::Internal, "Failed to initialize LocalCache: a 'size' of");
        }
    }

    #[test]
    fn a_cache_that_does_not_exist_is_named() {
        refuses("nope", &[("a", "b")], Code::InvalidArgument, "unable to find 'libtritoncache_nope.so' for cache");
    }

    fn redis_of(settings: &[(&str, &str)], environment: &[(&str, &str)]) -> RedisSettings {
        let variable = |name: &str| Some(environment.iter().find(|(key, _)| *key == name)?.1.to_owned());
        let address = [("host", "h"), ("port", "6379")];
        match read(&config("redis", &[&address, settings].concat()), variable).unwrap() {
            Settings::Redis(settings) => *settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn redis_needs_an_address_and_has_defaults_for_the_rest() {
        let settings = redis_of(&[], &[]);
        assert_eq!((settings.host.as_str(), settings.port, settings.db, settings.pool_size), ("h", 6379, 0, 1));
        assert_eq!((settings.user, settings.password, settings.tls), (None, None, None));
        let second = Duration::from_secs(1);
        assert_eq!(
            (settings.connect_timeout, settings.socket_timeout, settings.wait_timeout),
            (second, second, second)
        );
        let missing = "Failed to initialize RedisCache, didn't specify address.";
        refuses("redis", &[("host", "h")], Code::InvalidArgument, missing);
        refuses("redis", &[("port", "1")], Code::InvalidArgument, missing);
        let address = [("host", "h"), ("port", "6379")];
        for (key, value) in
            [("port", "70000"), ("pool_size", "0"), ("pool_size", "x"), ("db", "-1"), ("socket_timeout", "1s")]
        {
            let expect = format!("Failed to initialize RedisCache: '{key}' must be");
            refuses("redis", &[&address[..], &[(key, value)]].concat(), Code::InvalidArgument, &expect);
        }
    }

    #[test]
    fn credentials_may_come_from_the_environment_and_settings_count_more() {
        let environment = [("TRITONCACHE_REDIS_USERNAME", "eu"), ("TRITONCACHE_REDIS_PASSWORD", "ep")];
        let of = |settings: &[(&str, &str)]| {
            let settings = redis_of(settings, &environment);
            (settings.user.unwrap(), settings.password.unwrap())
        };
        assert_eq!(of(&[]), ("eu".to_owned(), "ep".to_owned()));
        assert_eq!(of(&[("password", "p")]), ("eu".to_owned(), "p".to_owned()));
        assert_eq!(of(&[("user", "u"), ("password", "p")]), ("u".to_owned(), "p".to_owned()));
    }

    #[test]
    fn files_of_tls_count_where_it_is_enabled() {
        let files = [("cacert", "ca.pem"), ("sni", "redis.local"), ("socket_timeout", "250"), ("wait_timeout", "0")];
        assert_eq!(redis_of(&files, &[]).tls, None);
        let settings = redis_of(&[&files[..], &[("tls_enabled", "true")]].concat(), &[]);
        assert_eq!(settings.socket_timeout, Duration::from_millis(250));
        let tls = settings.tls.unwrap();
        assert_eq!((tls.cacert.as_deref(), tls.sni.as_deref(), tls.cert), (Some("ca.pem"), Some("redis.local"), None));
    }
}
