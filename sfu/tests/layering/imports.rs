//! Finds what a Rust file imports from its own crate and its neighbours, by tokens: comments, texts and tests aside.

use std::path::Path;

/// A path that a file uses, from the root of its crate on: `["crate", "wire", "rtcp"]`, or
/// `["chappe_proto", "node"]` of another crate.
pub(crate) type ImportPath = Vec<String>;

/// All paths that `source` uses from crates named in `roots`. `file` is relative to `src`.
pub(crate) fn imports(file: &Path, source: &str, roots: &[&str]) -> Vec<ImportPath> {
    let tokens = without_tests(&tokens(source));
    let module = module_path(file);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at].as_str();
        let continues = at > 0 && tokens[at - 1] == "::";
        let leads = tokens.get(at + 1).is_some_and(|next| next == "::");
        if continues || !leads || !(matches!(token, "crate" | "super") || roots.contains(&token)) {
            at += 1;
            continue;
        }
        let mut prefix = vec![token.to_string()];
        at += 2;
        if token == "super" {
            let mut depth = module.len().saturating_sub(1);
            while tokens.get(at).is_some_and(|next| next == "super") {
                depth = depth.saturating_sub(1);
                at += 2;
            }
            prefix = vec!["crate".to_string()];
            prefix.extend(module[..depth].iter().cloned());
        }
        at = tree(&tokens, at, prefix, &mut found);
    }
    found
}

/// Reads a use tree at `at`; returns where it ends.
fn tree(
    tokens: &[String],
    mut at: usize,
    mut prefix: ImportPath,
    out: &mut Vec<ImportPath>,
) -> usize {
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    let before = at;
                    at = tree(tokens, at, prefix.clone(), out);
                    while tokens.get(at).is_some_and(|token| token != "," && token != "}") {
                        at += 1;
                    }
                    if tokens.get(at).is_some_and(|token| token == ",") {
                        at += 1;
                    }
                    assert!(at > before, "the walk goes on");
                }
                return at + 1;
            }
            Some(token) if is_word(token) || token == "*" => {
                prefix.push(token.to_string());
                at += 1;
                if tokens.get(at).is_none_or(|next| next != "::") {
                    out.push(prefix);
                    return at;
                }
                at += 1;
            }
            _ => {
                out.push(prefix);
                return at;
            }
        }
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// `a/b.rs` and `a/b/mod.rs` are both `[a, b]`; `lib.rs` and `main.rs` are the root.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> = file
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        path.pop();
    }
    path
}

/// Words, `::` and single signs.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        at += match rest {
            ['/', '/', ..] => rest.iter().take_while(|c| **c != '\n').count(),
            ['/', '*', ..] => block_comment_len(rest),
            ['"', ..] => string_len(rest),
            ['r', '"' | '#', ..] if raw_string_len(rest).is_some() => {
                raw_string_len(rest).unwrap_or(1)
            }
            // A character, not a lifetime.
            ['\'', '\\', _, tail @ ..] => 4 + tail.iter().take_while(|c| **c != '\'').count(),
            ['\'', _, '\'', ..] => 3,
            [':', ':', ..] => {
                out.push("::".to_string());
                2
            }
            [c, ..] if c.is_alphanumeric() || *c == '_' => {
                let word: String =
                    rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
                let len = word.chars().count();
                out.push(word);
                len
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    out.push(c.to_string());
                }
                1
            }
            [] => 1,
        };
    }
    out
}

fn block_comment_len(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn string_len(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn raw_string_len(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = &rest[2 + hashes..];
    let len = body.windows(end.len()).position(|window| window == end).unwrap_or(body.len());
    Some(2 + hashes + len + end.len())
}

/// Leaves out `#[cfg(test)] mod name { ... }`: tests may put neighbours together.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_tests = tokens[at..].iter().take(attribute.len()).eq(attribute.iter());
        if is_tests && tokens.get(at + attribute.len() + 1).is_some_and(|token| token == "{") {
            let mut depth = 0;
            at += attribute.len() + 1;
            while let Some(token) = tokens.get(at) {
                depth += i32::from(token == "{") - i32::from(token == "}");
                at += 1;
                if depth == 0 {
                    break;
                }
            }
        } else {
            out.push(tokens[at].clone());
            at += 1;
        }
    }
    out
}
