//! A secret that is not printed with what holds it.

use serde::{Deserialize, Serialize};

/// Text whose `Debug` says nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Redacted(pub(crate) String);

impl From<String> for Redacted {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redacted")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn secrets_of_the_command_line_are_not_printed() {
        let words = "chappe-loadtest coordinator meeting --agent a:1 --url http://sfu:7880 --api-key its-key \
                     --api-secret hush-of-the-api --swarm-secret hush-of-the-swarm";
        let printed = format!("{:?}", Cli::parse_from(words.split_whitespace()));
        assert!(printed.contains("its-key"), "{printed}");
        assert!(!printed.contains("hush"), "{printed}");
    }
}
