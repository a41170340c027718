//! Where a configured value was written, so that an error can point at it.

use serde_saphyr::Spanned;

/// A value that cannot be used, with its place and what was expected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// A sentence for the operator.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The file that raw values were read from; without a name where there is none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    file: String,
}

impl Origin {
    /// A file by the name that errors shall say.
    pub fn file(name: impl Into<String>) -> Self {
        Self { file: name.into() }
    }

    /// The value of `flag` (`--port (CHAPPE_PORT)`) where it is given, else that of the file under `key`
    /// (`rtc.udp_port`).
    pub fn pick<T>(
        &self,
        key: &str,
        flag: &str,
        given: Option<T>,
        written: Option<Spanned<T>>,
    ) -> Option<Placed<T>> {
        match given {
            Some(value) => Some(Placed { value, place: flag.to_owned() }),
            None => written.map(|written| self.placed(key, written)),
        }
    }

    /// [`pick`](Self::pick) for lists: those of the flag where there are any, else those of the file.
    pub fn pick_all<T>(
        &self,
        key: &str,
        flag: &str,
        given: &[T],
        written: Vec<Spanned<T>>,
    ) -> Vec<Placed<T>>
    where
        T: Clone,
    {
        if given.is_empty() {
            return written.into_iter().map(|written| self.placed(key, written)).collect();
        }
        let flagged = |value: &T| Placed { value: value.clone(), place: flag.to_owned() };
        given.iter().map(flagged).collect()
    }

    /// A value of the file under `key`.
    pub fn placed<T>(&self, key: &str, written: Spanned<T>) -> Placed<T> {
        // Values that serde buffered have no line.
        let place = match written.referenced.line() {
            0 => format!("{}: {key}", self.file),
            line => format!("{}, line {line}: {key}", self.file),
        };
        Placed { value: written.value, place }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    place: String,
}

impl<T> Placed<T> {
    /// An error about this value: its place, then `expected`.
    pub fn refuse(&self, expected: impl AsRef<str>) -> ConfigError {
        ConfigError(format!("{}: {}", self.place, expected.as_ref()))
    }

    /// A value that a flag gave.
    pub fn flag(flag: &str, value: T) -> Self {
        Self { value, place: flag.to_owned() }
    }
}

/// `host:port`, as a STUN server is named; the host may be an IPv6 address in brackets.
pub(super) fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
        let named = !host.is_empty() && !host.contains([':', '/', '[', ']', ' ']);
        (bracketed || named) && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}
