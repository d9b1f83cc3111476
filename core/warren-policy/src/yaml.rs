//! YAML into the same tree: for policies that people wrote so. Without anchors, aliases and tags, which say the same
//! thing in another place, and so would have no position of their own.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::diagnostics::Complaints;
use crate::raw::{Field, Kind, Raw};

/// Lists and mappings inside each other; as deep as the JSON reader goes or less.
const MAX_DEPTH: usize = 128;

/// Reads one document; complains and gives `None` if it is none.
pub(crate) fn parse(text: &str, complaints: &mut Complaints) -> Option<Raw> {
    let mut reader = Reader { parser: Parser::new_from_str(text), offsets: Offsets::new(text) };
    match reader.document() {
        Ok(raw) => Some(raw),
        Err(Problem { at, message }) => {
            let is_star = text.get(at..).is_some_and(|rest| rest.starts_with('*'));
            let message = if is_star {
                let word = text[at..].split(|c: char| c.is_whitespace() || ",]}".contains(c)).next().unwrap_or("*");
                format!("a word that begins with * stands in quotes: write {word:?}")
            } else {
                message
            };
            complaints.add(at, "", format!("parsing YAML: {message}"));
            None
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    offsets: Offsets,
}

struct Problem {
    at: usize,
    message: String,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), Problem> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.at(span))),
            Some(Err(error)) => {
                Err(Problem { at: self.offsets.byte(error.marker().index()), message: error.info().to_owned() })
            }
            None => Err(Problem { at: self.offsets.end(), message: "the text ends too early".to_owned() }),
        }
    }

    fn at(&self, span: Span) -> usize {
        self.offsets.byte(span.start.index())
    }

    fn document(&mut self) -> Result<Raw, Problem> {
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd => return Err(Problem { at, message: "the policy is empty".to_owned() }),
                event => {
                    let value = self.value(event, at, 0)?;
                    return self.end().map(|()| value);
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), Problem> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), at) => {
                    return Err(Problem { at, message: "a policy is one document".to_owned() });
                }
                _ => {}
            }
        }
    }

    fn value(&mut self, event: Event<'a>, at: usize, depth: usize) -> Result<Raw, Problem> {
        let refuse = |message: &str| Err(Problem { at, message: message.to_owned() });
        if depth > MAX_DEPTH {
            return refuse("lists and mappings are too deep in each other");
        }
        let kind = match event {
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                return refuse("anchors are not read: write the value where it is meant");
            }
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return refuse("tags of YAML are not read: leave out what begins with !");
            }
            Event::Alias(_) => return refuse("aliases are not read: write the value where it is meant"),
            Event::Scalar(text, ScalarStyle::Plain, ..) => plain(&text),
            Event::Scalar(text, ..) => Kind::Text(text.into_owned()),
            Event::SequenceStart(..) => {
                let mut elements = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Kind::List(elements),
                        (event, at) => elements.push(self.value(event, at, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut fields = Vec::new();
                loop {
                    let (name, at) = match self.next()? {
                        (Event::MappingEnd, _) => break Kind::Object(fields),
                        (Event::Scalar(text, _, 0, None), at) => (text.into_owned(), at),
                        (Event::Alias(_), at) => {
                            return Err(Problem {
                                at,
                                message: "a name is a word; one that begins with * stands in quotes".to_owned(),
                            });
                        }
                        (_, at) => return Err(Problem { at, message: "a name is a word".to_owned() }),
                    };
                    let (event, value_at) = self.next()?;
                    let value = self.value(event, value_at, depth + 1)?;
                    fields.push(Field { at, name, value });
                }
            }
            _ => return refuse("expected a value"),
        };
        Ok(Raw { at, kind })
    }
}

/// What an unquoted word means: the core schema of YAML 1.2, in which `no` is a word.
fn plain(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        _ if text.parse::<serde_json::Number>().is_ok() => Kind::Number(text.to_owned()),
        _ => Kind::Text(text.to_owned()),
    }
}

/// The parser counts characters, positions are bytes.
struct Offsets {
    /// Byte offset of each character, unless all are one byte long.
    bytes: Vec<usize>,
    len: usize,
}

impl Offsets {
    fn new(text: &str) -> Offsets {
        let bytes = if text.is_ascii() { Vec::new() } else { text.char_indices().map(|(at, _)| at).collect() };
        Offsets { bytes, len: text.len() }
    }

    fn byte(&self, index: usize) -> usize {
        if self.bytes.is_empty() { index.min(self.len) } else { self.bytes.get(index).copied().unwrap_or(self.len) }
    }

    fn end(&self) -> usize {
        self.len
    }
}
