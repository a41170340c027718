//! Mistakes of whoever calls.

/// A cause that keeps a run from making sense, in one line.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl From<String> for Usage {
    fn from(text: String) -> Self {
        Self(text)
    }
}
