//! Rust source as a list of tokens: enough to find a word outside of comments and strings.

use std::collections::BTreeMap;

/// A word, a number or one other character. Comments, strings and character literals leave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// Its text.
    pub(crate) text: String,
    /// Line in the file, from 1.
    pub(crate) line: usize,
}

impl Token {
    /// Whether this is the token.
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text == text
    }
}

/// The tokens of a file.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = skipped(&chars, at).unwrap_or_else(|| {
            let end = word_end(&chars, at).max(at + 1);
            if !chars[at].is_whitespace() {
                found.push(Token { text: chars[at..end].iter().collect(), line });
            }
            end
        });
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    found
}

fn word_end(chars: &[char], at: usize) -> usize {
    let len = chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
    at + len
}

/// Where the comment, string or character literal ends that begins here.
fn skipped(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    match rest {
        ['/', '/', ..] => Some(at + rest.iter().take_while(|c| **c != '\n').count()),
        ['/', '*', ..] => Some(at + block_comment(rest)),
        ['"', ..] => Some(at + string(rest)),
        ['\'', '\\', ..] => Some(at + quoted(rest, '\'')),
        // A lifetime has no second quote.
        ['\'', _, '\'', ..] => Some(at + 3),
        ['r' | 'b' | 'c', ..] => prefixed(rest).map(|len| at + len),
        _ => None,
    }
}

/// `r"…"`, `br#"…"#`, `b"…"`, `c"…"`, `b'…'`; a plain word that begins with such a letter is none of them.
fn prefixed(rest: &[char]) -> Option<usize> {
    let letters = rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
    let prefix: String = rest[..letters].iter().collect();
    let (tail, hashes) = (&rest[letters..], rest[letters..].iter().take_while(|c| **c == '#').count());
    match (prefix.as_str(), tail) {
        ("b" | "c", ['"', ..]) => Some(letters + string(tail)),
        ("b", ['\'', ..]) => Some(letters + quoted(tail, '\'')),
        ("r" | "br" | "cr", _) if tail.get(hashes) == Some(&'"') => {
            let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let body = &tail[hashes + 1..];
            let len = body.windows(close.len()).position(|window| window == close).unwrap_or(body.len());
            Some((letters + hashes + 1 + len + close.len()).min(rest.len()))
        }
        _ => None,
    }
}

fn string(rest: &[char]) -> usize {
    quoted(rest, '"')
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Block comments nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

fn begins_test(code: &[Token]) -> bool {
    code.len() >= CFG_TEST.len() && code.iter().zip(CFG_TEST).all(|(token, word)| token.is(word))
}

/// The tokens without the items under `#[cfg(test)]`.
pub(crate) fn without_tests(code: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < code.len() {
        if begins_test(&code[at..]) {
            at += CFG_TEST.len() + item_len(&code[at + CFG_TEST.len()..]);
        } else {
            kept.push(code[at].clone());
            at += 1;
        }
    }
    kept
}

/// Tokens up to the `;` or the closing brace that ends the item.
fn item_len(code: &[Token]) -> usize {
    let mut depth = 0;
    for (at, token) in code.iter().enumerate() {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && (token.is(";") || token.is("}")) {
            return at + 1;
        }
    }
    code.len()
}

/// Whether a file is (part of) a module that some other of `files` declares as `#[cfg(test)] mod NAME;`.
pub(crate) fn is_test_module(path: &str, files: &BTreeMap<String, String>) -> bool {
    files.iter().any(|(parent, text)| {
        let dir = module_dir(parent);
        test_module_names(text)
            .iter()
            .any(|name| path == format!("{dir}/{name}.rs") || path.starts_with(&format!("{dir}/{name}/")))
    })
}

/// Where the modules of a file's module lie.
fn module_dir(path: &str) -> String {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    match stem.rsplit_once('/') {
        Some((dir, "mod" | "lib" | "main")) => dir.to_owned(),
        _ => stem.to_owned(),
    }
}

fn test_module_names(text: &str) -> Vec<String> {
    let code = tokens(text);
    let starts = (0..code.len()).filter(|at| begins_test(&code[*at..]));
    let names = starts.filter_map(|at| match &code[at + CFG_TEST.len()..] {
        [word, name, end, ..] if word.is("mod") && end.is(";") => Some(name.text.clone()),
        _ => None,
    });
    names.collect()
}
