//! Words to directives, with `include` resolved where it stands.
//!
//! The parser does not stop a later stage from seeing what came before a mistake: an error is the
//! last [`Item`] of its block, so that mistakes are reported in the order in which nginx, which
//! reads and checks in one go, would report them.

use super::diag::{At, ConfError, ConfResult};
use super::lexer::{Lexer, Token};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directive as written: its name, its arguments, its block if it has one.
#[derive(Clone, Debug)]
pub struct Directive {
    /// The first word.
    pub name: String,
    /// The other words.
    pub args: Vec<String>,
    /// Where it ends, or its block begins.
    pub at: At,
    /// What stands between its braces; `None` when it ends with `;`.
    pub block: Option<Vec<Item>>,
}

impl Directive {
    /// The `n`th argument. The arity check has run before a setter sees a directive, so an
    /// argument the arity demands is there; any other reads as empty.
    pub fn arg(&self, n: usize) -> &str {
        self.args.get(n).map_or("", String::as_str)
    }

    /// The directive on one line, shortened, for an error message.
    pub fn summary(&self) -> String {
        let mut line = self.name.clone();
        for arg in &self.args {
            line.push(' ');
            let quote = arg.is_empty() || arg.contains([' ', '\t', ';', '{', '\n']);
            if quote {
                line.push_str(&format!("{arg:?}"));
            } else {
                line.push_str(arg);
            }
        }
        line.push_str(if self.block.is_some() { " {" } else { ";" });
        if line.len() > 120 {
            let cut = (0..=117).rev().find(|&i| line.is_char_boundary(i)).unwrap_or(0);
            line.truncate(cut);
            line.push_str("...");
        }
        line
    }
}

/// A piece of a block.
#[derive(Clone, Debug)]
pub enum Item {
    /// A directive.
    Directive(Directive),
    /// The mistake at which reading stopped; nothing follows it.
    Error(ConfError),
}

/// A file that was read, for `-T`.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file's name as it appears in errors.
    pub file: Arc<str>,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// The whole configuration as written.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The top level.
    pub items: Vec<Item>,
    /// Every file read, once, in the order of reading.
    pub sources: Vec<Source>,
}

/// Deeper includes than this are a cycle.
const MAX_INCLUDE_DEPTH: usize = 64;
/// More files than this come of files that include each other twice.
const MAX_FILES: usize = 1 << 16;
/// Deeper blocks than this are not a configuration; the bound keeps the recursion safe.
const MAX_BLOCK_DEPTH: usize = 128;

/// Parses the text given with `-g`.
pub fn parse_globals(text: &str) -> Vec<Item> {
    let mut parser = Parser { conf_dir: PathBuf::new(), sources: Vec::new(), files: 0 };
    let mut lexer = Lexer::new(text.as_bytes(), Arc::from("command line"), 0);
    let mut items = parser.block(&mut lexer, 0, 0);
    end_of_parameter(&mut items);
    items
}

/// nginx's words for a command line that ends too early.
fn end_of_parameter(items: &mut [Item]) {
    match items.last_mut() {
        Some(Item::Error(e)) if e.message.starts_with("unexpected end of file") => {
            e.message = "unexpected end of parameter, expecting \";\"".into();
        }
        Some(Item::Directive(Directive { block: Some(block), .. })) => end_of_parameter(block),
        _ => {}
    }
}

/// Parses the file at `path` and all it includes.
///
/// Relative includes are looked up in the directory of `path`, as nginx does.
pub fn parse_file(path: &Path) -> ConfResult<Parsed> {
    let conf_dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut parser = Parser { conf_dir, sources: Vec::new(), files: 0 };
    let items = parser.file(path, 0, 0)?;
    Ok(Parsed { items, sources: parser.sources })
}

struct Parser {
    conf_dir: PathBuf,
    sources: Vec<Source>,
    /// Files read so far, each as often as it was included.
    files: usize,
}

impl Parser {
    fn file(&mut self, path: &Path, includes: usize, depth: usize) -> ConfResult<Vec<Item>> {
        let name: Arc<str> = Arc::from(path.to_string_lossy().as_ref());
        let text = super::files::read(path).map_err(|e| {
            let call = if e.kind() == std::io::ErrorKind::IsADirectory { "pread" } else { "open" };
            ConfError::new(format!("{call}() \"{name}\" failed ({})", super::values::os_error(&e)))
        })?;
        if !self.sources.iter().any(|s| s.file == name) {
            self.sources.push(Source { file: name.clone(), text: text.clone() });
        }
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(ConfError::new(format!("more than {MAX_FILES} files are included"))
                .hint("do files include each other?"));
        }
        let mut lexer = Lexer::new(&text, name, 1);
        Ok(self.block(&mut lexer, includes, depth))
    }

    /// Reads a block up to its `}`, or a file up to its end when the block is the file's own.
    fn block(&mut self, lexer: &mut Lexer<'_>, includes: usize, depth: usize) -> Vec<Item> {
        let mut items = Vec::new();
        if let Err(error) = self.directives(lexer, includes, depth, true, &mut items) {
            items.push(Item::Error(error));
        }
        items
    }

    fn directives(
        &mut self,
        lexer: &mut Lexer<'_>,
        includes: usize,
        depth: usize,
        whole_file: bool,
        items: &mut Vec<Item>,
    ) -> ConfResult<()> {
        loop {
            let (token, at) = lexer.next_token()?;
            let name = match token {
                Token::Word(word) => word,
                Token::End if whole_file => return Ok(()),
                Token::End => {
                    return Err(ConfError::new("unexpected end of file, expecting \"}\"").at(&lexer.at()));
                }
                Token::Close if !whole_file => return Ok(()),
                Token::Close => return Err(ConfError::new("unexpected \"}\"").at(&at)),
                Token::Semicolon => return Err(ConfError::new("unexpected \";\"").at(&at)),
                Token::Open => return Err(ConfError::new("unexpected \"{\"").at(&at)),
            };
            let mut args = Vec::new();
            // nginx names the line on which a directive ends, or opens its block.
            let (opened, end) = loop {
                let (token, here) = lexer.next_token()?;
                match token {
                    Token::Word(word) => args.push(word),
                    Token::Semicolon => break (false, here),
                    Token::Open => break (true, here),
                    Token::Close => {
                        return Err(ConfError::new("unexpected \"}\"").at(&here).hint(format!(
                            "the directive \"{name}\" of line {} is not ended by \";\"",
                            at.line
                        )));
                    }
                    Token::End => {
                        return Err(ConfError::new("unexpected end of file, expecting \";\" or \"}\"")
                            .at(&here)
                            .hint(format!(
                                "the directive \"{name}\" of line {} is not ended by \";\"",
                                at.line
                            )));
                    }
                }
            };
            let at = end;
            if opened {
                if depth >= MAX_BLOCK_DEPTH {
                    return Err(ConfError::new("blocks are nested too deeply").at(&at));
                }
                let mut block = Vec::new();
                let result = self.directives(lexer, includes, depth + 1, false, &mut block);
                let failed = result.is_err();
                if let Err(error) = result {
                    block.push(Item::Error(error));
                }
                items.push(Item::Directive(Directive { name, args, at, block: Some(block) }));
                if failed {
                    // The error stands inside the block; nothing after it was read.
                    return Ok(());
                }
            } else if name == "include" && args.len() == 1 {
                self.include(&args[0], &at, includes, depth, items)?;
                if ends_in_error(items) {
                    return Ok(());
                }
            } else {
                items.push(Item::Directive(Directive { name, args, at, block: None }));
            }
        }
    }

    fn include(
        &mut self,
        pattern: &str,
        at: &At,
        includes: usize,
        depth: usize,
        items: &mut Vec<Item>,
    ) -> ConfResult<()> {
        if includes >= MAX_INCLUDE_DEPTH {
            return Err(ConfError::new(format!("include \"{pattern}\" is nested too deeply"))
                .at(at)
                .hint("does a file include itself?"));
        }
        let full = self.conf_dir.join(pattern);
        let full_text = full.to_string_lossy().into_owned();
        if !pattern.contains(['*', '?', '[']) {
            let read = self.file(&full, includes + 1, depth).map_err(|e| e.at(at))?;
            items.extend(read);
            return Ok(());
        }
        // Two asterisks are one: nginx's patterns do not go into directories.
        let mut full_text = full_text;
        while full_text.contains("**") {
            full_text = full_text.replace("**", "*");
        }
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let paths = glob::glob_with(&full_text, options)
            .map_err(|e| ConfError::new(format!("invalid pattern \"{pattern}\": {e}")).at(at))?;
        // `glob` yields its paths sorted; a pattern that matches nothing includes nothing.
        for path in paths {
            let path = path.map_err(|e| ConfError::new(format!("include \"{pattern}\": {e}")).at(at))?;
            let read = self.file(&path, includes + 1, depth).map_err(|e| e.at(at))?;
            items.extend(read);
            if ends_in_error(items) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Whether reading stopped at a mistake, here or in a block that ends here.
fn ends_in_error(items: &[Item]) -> bool {
    match items.last() {
        Some(Item::Error(_)) => true,
        Some(Item::Directive(Directive { block: Some(block), .. })) => ends_in_error(block),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<Item> {
        let mut parser = Parser { conf_dir: PathBuf::new(), sources: Vec::new(), files: 0 };
        parser.block(&mut Lexer::new(text.as_bytes(), Arc::from("t.conf"), 1), 0, 0)
    }

    fn first_error(items: &[Item]) -> Option<&ConfError> {
        items.iter().find_map(|item| match item {
            Item::Error(e) => Some(e),
            Item::Directive(d) => d.block.as_deref().and_then(first_error),
        })
    }

    #[test]
    fn a_missing_semicolon_is_found_where_nginx_finds_it() {
        let items = parse("http {\n  server {\n    root /x\n  }\n}\n");
        let error = first_error(&items).unwrap();
        assert_eq!(error.message, "unexpected \"}\"");
        assert_eq!(error.at.as_ref().unwrap().line, 4);
    }

    #[test]
    fn the_line_of_a_directive_is_that_of_its_end() {
        let items = parse("a\n 1\n 2;\nb\n{ c\n;\n}\n");
        let lines = |items: &[Item]| -> Vec<u32> {
            items.iter().map(|i| if let Item::Directive(d) = i { d.at.line } else { 0 }).collect()
        };
        assert_eq!(lines(&items), [3, 5]);
        assert!(
            matches!(&items[1], Item::Directive(Directive { block: Some(inner), .. }) if lines(inner) == [6])
        );
    }

    #[test]
    fn a_missing_brace_is_found_at_the_end() {
        let items = parse("http {\n  server {\n  }\n");
        assert_eq!(first_error(&items).unwrap().message, "unexpected end of file, expecting \"}\"");
    }

    #[test]
    fn two_asterisks_are_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        for name in ["a.conf", "deep/b.conf"] {
            std::fs::write(dir.path().join(name), "x;").unwrap();
        }
        for (pattern, files) in [("**.conf", 1), ("*/**.conf", 1), ("**/*.conf", 1)] {
            let main = dir.path().join("main");
            std::fs::write(&main, format!("include {pattern};")).unwrap();
            assert_eq!(parse_file(&main).unwrap().items.len(), files, "{pattern}");
        }
    }

    #[test]
    fn files_that_multiply_are_stopped() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..40 {
            std::fs::write(dir.path().join(n.to_string()), format!("include {0}; include {0};", n + 1))
                .unwrap();
        }
        std::fs::write(dir.path().join("40"), "").unwrap();
        let items = parse_file(&dir.path().join("0")).unwrap().items;
        assert!(first_error(&items).unwrap().message.contains("files are included"));
    }

    #[test]
    fn what_stands_before_a_mistake_is_kept() {
        let items = parse("a 1;\nb {\n c 2;\n }}\n");
        assert_eq!(items.len(), 3);
        assert!(matches!(&items[2], Item::Error(e) if e.message == "unexpected \"}\""));
    }

    #[test]
    fn the_command_line_ends_each_directive_too() {
        assert!(first_error(&parse_globals("daemon off; pid /x; # both")).is_none());
        for text in ["daemon off; pid /x", "pid \"", "events {"] {
            let items = parse_globals(text);
            let error = first_error(&items).unwrap();
            assert_eq!(
                error.to_string().lines().next(),
                Some("unexpected end of parameter, expecting \";\" in command line"),
                "{text}"
            );
        }
    }
}
