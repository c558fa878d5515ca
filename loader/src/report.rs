//! What the verifier said about a program, told with the source that it speaks of.

use annotate_snippets::{
    self as snippets, AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str,
};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_abi::helper::Capability;
use tidegate_verifier::{Refusal, Verified};

use crate::disasm;
use crate::object::{Line, Object, Program};

/// Lines of source that are shown before and behind the one that is meant.
const AROUND: u32 = 2;

/// A refusal with everything that its author needs to find the cause.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Diagnosis {
    /// The stable code of the rule, as `TG0301`.
    pub code: &'static str,
    /// The rule in a few words.
    pub title: &'static str,
    /// What was missing, with what is known instead.
    pub message: String,
    /// Why there is such a rule.
    pub explanation: &'static str,
    /// What to do about it.
    pub hint: String,
    /// The function that the instruction belongs to.
    pub function: Option<String>,
    /// The slot of the instruction.
    pub slot: usize,
    /// The instruction.
    pub instruction: Option<String>,
    /// The source line, when the object has a line table.
    pub source: Option<Source>,
    /// Where what is known comes from.
    pub origins: Vec<Origin>,
}

/// A place that a refusal speaks of besides its own.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Origin {
    /// What happened there.
    pub what: &'static str,
    /// The slot of the instruction.
    pub slot: usize,
    /// The instruction.
    pub instruction: Option<String>,
    /// Its source line, when it is known.
    pub source: Option<Source>,
}

/// A source line and what is known of the lines around it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Source {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1; 0 when it is not known.
    pub column: u32,
    /// The text of the line.
    pub text: String,
    /// The number of the first line in `around`.
    #[serde(skip)]
    first: u32,
    /// The line and its neighbours, as far as the line table knows them.
    #[serde(skip)]
    around: Vec<String>,
}

impl Diagnosis {
    /// The diagnosis of `refusal`, which the verifier gave for `program` of `object`.
    pub fn new(object: &Object, program: &Program, refusal: &Refusal) -> Self {
        let entry = refusal.code.entry();
        Self {
            code: refusal.code.text(),
            title: entry.title,
            message: refusal.told(&|slot, f| f.write_str(&named(program, slot as usize))).to_string(),
            explanation: entry.explanation,
            hint: refusal.cure().to_string(),
            function: program.function(refusal.insn).map(|function| function.name.clone()),
            slot: refusal.insn,
            instruction: disasm::instruction(object, program, refusal.insn).map(|insn| insn.text),
            source: program.line(refusal.insn).map(|line| Source::of(program, line)),
            origins: origins(object, program, refusal),
        }
    }

    /// The diagnosis as compilers show theirs.
    pub fn render(&self, color: bool) -> String {
        let title = Level::ERROR.primary_title(self.title).id(self.code);
        let mut group = match &self.source {
            Some(source) if !source.text.trim().is_empty() => title.element(source.snippet(&self.message)),
            Some(source) => title
                .element(snippets::Origin::path(source.file.as_str()).line(source.line as usize))
                .element(Level::NOTE.message(self.message.as_str())),
            None => Group::with_title(title).element(Level::NOTE.message(self.message.as_str())),
        };
        for origin in &self.origins {
            let shown = origin.source.as_ref().filter(|source| !source.text.trim().is_empty());
            group = match (shown, &origin.instruction) {
                (Some(source), _) => group.element(source.alone(origin.what)),
                (None, Some(instruction)) => {
                    let text = format!("instruction {}: {instruction}: {}", origin.slot, origin.what);
                    group.element(Level::NOTE.message(text))
                }
                (None, None) => group,
            };
        }
        if let Some(place) = self.place() {
            group = group.element(Level::NOTE.message(place));
        }
        if self.source.is_none() {
            group = group.element(
                Level::NOTE.message("the object has no line table: compile with -g to see the source line"),
            );
        }
        group = group.element(Level::NOTE.message(self.explanation));
        group = group.element(Level::HELP.message(self.hint.as_str()));
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }

    /// Where the instruction is, in the words of the bytecode.
    fn place(&self) -> Option<String> {
        let instruction = self.instruction.as_ref()?;
        let function = self.function.as_deref().unwrap_or("the program");
        Some(format!("instruction {} in {function}: {instruction}", self.slot))
    }
}

/// How an instruction is named in a sentence: by its line, or by its slot where there is none.
fn named(program: &Program, slot: usize) -> String {
    match program.line(slot) {
        Some(line) => {
            let file = normalize_untrusted_str(&line.file);
            format!("{}:{}", file.rsplit('/').next().unwrap_or(&file), line.line)
        }
        None => format!("instruction {slot}"),
    }
}

/// The places that `refusal` speaks of, but for its own line: each line once.
fn origins(object: &Object, program: &Program, refusal: &Refusal) -> Vec<Origin> {
    let line = |slot: usize| program.line(slot).map(|line| (line.file.clone(), line.line));
    let mut seen = vec![line(refusal.insn).ok_or(refusal.insn)];
    let mut origins = Vec::new();
    for (slot, what) in refusal.origins() {
        let slot = slot as usize;
        let place = line(slot).ok_or(slot);
        if seen.contains(&place) {
            continue;
        }
        seen.push(place);
        origins.push(Origin {
            what,
            slot,
            instruction: disasm::instruction(object, program, slot).map(|insn| insn.text),
            source: program.line(slot).map(|line| Source::of(program, line)),
        });
    }
    origins
}

impl Source {
    /// The line without its neighbours, and what happened there.
    fn alone<'a>(&'a self, label: &'a str) -> Snippet<'a, snippets::Annotation<'a>> {
        let text = self.text.trim_end();
        let indent = text.len() - text.trim_start().len();
        Snippet::source(text)
            .line_start(self.line as usize)
            .path(self.file.as_str())
            .annotation(AnnotationKind::Context.span(indent..text.len()).label(label))
    }

    fn of(program: &Program, line: &Line) -> Self {
        // The text comes from the object, which anyone may have made: nothing in it may steer a terminal.
        let clean = |text: &str| normalize_untrusted_str(text);
        let text = |number: u32| {
            let known =
                |other: &&Line| other.line == number && other.file == line.file && !other.text.is_empty();
            program.lines.iter().find(known).map(|line| clean(&line.text))
        };
        let mut first = line.line;
        let mut around = vec![clean(&line.text)];
        while let Some(before) =
            first.checked_sub(1).filter(|first| first + AROUND >= line.line).and_then(text)
        {
            first -= 1;
            around.insert(0, before);
        }
        while let Some(behind) = Some(first + around.len() as u32)
            .filter(|next| *next <= line.line.saturating_add(AROUND))
            .and_then(text)
        {
            around.push(behind);
        }
        Self {
            file: clean(&line.file),
            line: line.line,
            column: line.column,
            text: clean(&line.text),
            first,
            around,
        }
    }

    fn snippet<'a>(&'a self, label: &'a str) -> Snippet<'a, snippets::Annotation<'a>> {
        let before = self.around.iter().take((self.line - self.first) as usize);
        let start: usize = before.map(|line| line.len() + 1).sum();
        let end = start + self.text.trim_end().len();
        let indent = self.text.len() - self.text.trim_start().len();
        // A column that lies outside of the text, or inside of a character, says nothing.
        let column = (self.column as usize)
            .checked_sub(1)
            .filter(|column| *column < self.text.trim_end().len() && self.text.is_char_boundary(*column))
            .unwrap_or(indent);
        Snippet::source(self.around.join("\n"))
            .line_start(self.first as usize)
            .path(self.file.as_str())
            .fold(false)
            .annotation(AnnotationKind::Primary.span(start + column..end).label(label))
    }
}

/// Verifies one program as the driver does.
pub fn prove(object: &Object, program: &Program) -> Result<Verified, Refusal> {
    let code = program.code();
    let defs = object.map_defs(program);
    let input = tidegate_verifier::Program { program_type: program.program_type, code: &code, maps: &defs };
    tidegate_verifier::verify(&input, &tidegate_verifier::Options::default())
}

/// The names of the powers in `capabilities`, for people.
pub fn capabilities(capabilities: Capability) -> Vec<&'static str> {
    let named = Capability::NAMED.into_iter();
    named.filter(|(power, _)| capabilities.0 & power.0 != 0).map(|(_, name)| name).collect()
}
