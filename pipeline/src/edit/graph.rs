//! Edits of the graph: sources, steps and sinks, and who takes messages from whom.

use crate::lint::name_syntax;
use crate::locate::{self, Part};
use crate::tree::{Node, Value as Tree};

use super::page::{Child, Patch};
use super::value::{self, Value};
use super::{EditError, Editor, Path, Segment, at, below, below_key, keys, path_of, shown};

/// The sections with names of the graph.
const SECTIONS: [&str; 3] = ["sources", "steps", "sinks"];

/// The parts of a test whose entries have names of the graph.
const OF_TESTS: [&str; 3] = ["inputs", "outputs", "rejected"];

/// The places where a name of the graph is that of an entry.
fn named_entries(editor: &Editor, name: &str) -> Vec<Path> {
    let mut paths: Vec<Path> = SECTIONS.iter().map(|section| keys([*section, name])).collect();
    paths.extend(["sources", "sinks"].iter().map(|section| keys(["binding", *section, name])));
    for test in editor.names(&keys(["tests"])) {
        paths.extend(OF_TESTS.iter().map(|part| keys(["tests", &test, *part, name])));
    }
    paths.retain(|path| editor.spot(path).is_some());
    paths
}

/// Where tests name a step inside of a called pipeline, with what stands behind the name of the call: `-celsius`.
fn inside_call(editor: &Editor, name: &str) -> Vec<(Path, String)> {
    if editor.spot(&keys(["steps", name, "pipeline"])).is_none() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for test in editor.names(&keys(["tests"])) {
        let rejected = keys(["tests", &test, "rejected"]);
        for step in editor.names(&rejected) {
            let rest = step.strip_prefix(name).filter(|rest| rest.starts_with('-'));
            // A step of its own may have such a name too.
            if let Some(rest) = rest
                && editor.spot(&keys(["steps", &step])).is_none()
            {
                found.push((below_key(&rejected, &step), rest.to_owned()));
            }
        }
    }
    found
}

/// The rest of an input behind the name of a source or step: nothing, or a dot and an arm.
fn arm_of<'i>(input: &'i str, name: &str) -> Option<&'i str> {
    let rest = input.strip_prefix(name)?;
    (rest.is_empty() || rest.starts_with('.')).then_some(rest)
}

/// The name that an input has: its own text, or its field `name`.
fn input_name(node: &Node) -> Option<&str> {
    match &node.value {
        Tree::Scalar(text) => Some(text),
        Tree::Map(entries) => {
            match &entries.iter().find(|entry| entry.key == "name")?.value.value {
                Tree::Scalar(text) => Some(text),
                _ => None,
            }
        }
        _ => None,
    }
}

impl Editor {
    /// Adds a source, with its connector and settings where they are known: `{ mqtt: { ... } }`.
    ///
    /// # Errors
    ///
    /// When the name is none or taken; the text is as before then.
    pub fn add_source(&mut self, name: &str, binding: Option<&Value>) -> Result<(), EditError> {
        self.edit(|editor| {
            editor.free(name)?;
            let sources = keys(["sources"]);
            match editor.spot(&sources).map(|spot| &spot.node.value) {
                Some(Tree::List(items)) => {
                    let end = items.len();
                    editor.insert_item(&sources, end, &Value::Word(name.to_owned()))?;
                }
                None => editor.put(&sources, &Value::List(vec![Value::Word(name.to_owned())]))?,
                Some(_) => editor.put(&keys(["sources", name]), &Value::Map(Vec::new()))?,
            }
            match binding {
                Some(binding) => editor.put(&keys(["binding", "sources", name]), binding),
                None => Ok(()),
            }
        })
    }

    /// Adds a step: `{ map: to-celsius, from: machine }`.
    ///
    /// # Errors
    ///
    /// When the name is none or taken; the text is as before then.
    pub fn add_step(&mut self, name: &str, step: &Value) -> Result<(), EditError> {
        self.edit(|editor| {
            editor.free(name)?;
            editor.put(&keys(["steps", name]), step)
        })
    }

    /// Adds a sink, `{ from: too-hot }`, with its connector and settings where they are known.
    ///
    /// # Errors
    ///
    /// When the name is none or taken; the text is as before then.
    pub fn add_sink(
        &mut self,
        name: &str,
        sink: &Value,
        binding: Option<&Value>,
    ) -> Result<(), EditError> {
        self.edit(|editor| {
            editor.free(name)?;
            editor.put(&keys(["sinks", name]), sink)?;
            match binding {
                Some(binding) => editor.put(&keys(["binding", "sinks", name]), binding),
                None => Ok(()),
            }
        })
    }

    /// Takes out a source, step or sink with all that names it: in `from` of others, in the binding, and in tests.
    ///
    /// # Errors
    ///
    /// When it is not there; the text is as before then.
    pub fn remove_node(&mut self, name: &str) -> Result<(), EditError> {
        self.edit(|editor| {
            let mut found = false;
            let index = editor.index_in_sources(name);
            if let Some(index) = index {
                editor.take(&below(&keys(["sources"]), Segment::Index(index)))?;
                found = true;
            }
            for (path, _) in inside_call(editor, name) {
                editor.take(&path)?;
            }
            for path in named_entries(editor, name) {
                editor.take(&path)?;
                found = true;
            }
            if !found {
                return Err(EditError::NotThere { path: name.to_owned() });
            }
            for taker in editor.takers() {
                while let Some(input) = editor.input(&taker, |input| arm_of(input, name).is_some())
                {
                    editor.take(&input)?;
                }
            }
            Ok(())
        })
    }

    /// Gives a source, step or sink another name, wherever it is named: in `from` of others, also with an arm, in the
    /// binding, and in tests.
    ///
    /// # Errors
    ///
    /// When it is not there, or the name is none or taken; the text is as before then.
    pub fn rename_node(&mut self, old: &str, new: &str) -> Result<(), EditError> {
        self.edit(|editor| {
            if old == new {
                return Ok(());
            }
            editor.free(new)?;
            let entries = named_entries(editor, old).into_iter().map(|path| (path, new.to_owned()));
            let inside = inside_call(editor, old).into_iter();
            let inside = inside.map(|(path, rest)| (path, format!("{new}{rest}")));
            let entries: Vec<(Path, String)> = entries.chain(inside).collect();
            for (path, name) in &entries {
                let (_, above) = path.split_last().unwrap_or((&Segment::Index(0), &[]));
                let taken = below_key(above, name);
                if editor.spot(&taken).is_some() {
                    return Err(EditError::Exists { path: shown(&taken) });
                }
            }
            // What an input has to be afterwards, each by its path.
            let mut texts: Vec<(Path, String)> = Vec::new();
            if let Some(index) = editor.index_in_sources(old) {
                texts.push((below(&keys(["sources"]), Segment::Index(index)), new.to_owned()));
            }
            let is_node = entries.iter().any(|(path, _)| path.len() == 2) || !texts.is_empty();
            if entries.is_empty() && texts.is_empty() {
                return Err(EditError::NotThere { path: old.to_owned() });
            }
            for taker in editor.takers().into_iter().filter(|_| is_node) {
                texts.extend(editor.inputs(&taker).into_iter().filter_map(|(path, input)| {
                    let arm = arm_of(&input, old)?;
                    Some((path, format!("{new}{arm}")))
                }));
            }
            let mut patches = Vec::new();
            for (path, name) in &entries {
                let spot = editor.need(path)?;
                if let Some((parent, index)) = spot.parent
                    && let Some(Child::Entry(entry)) = Child::of(parent, index)
                {
                    patches.push(editor.page().renamed(entry, name, spot.in_flow));
                }
            }
            for (path, text) in &texts {
                let spot = editor.need(path)?;
                let quotes = editor.quotes_of(spot.node);
                let text = value::scalar(&Value::Word(text.clone()), spot.in_flow, quotes);
                patches.push(Patch::replace(spot.node.span.clone(), text));
            }
            editor.commit(&keys([old]), patches, |value| {
                // Texts first: the entries have their old names as long as paths lead through them.
                for (path, text) in texts {
                    *at(value, &path)? = Value::Word(text);
                }
                // The deepest first, for the same reason.
                let mut entries = entries;
                entries.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
                for (path, name) in entries {
                    let (last, above) = path.split_last()?;
                    let Value::Map(fields) = at(value, above)? else { return None };
                    let field =
                        fields.iter_mut().find(|(key, _)| *last == Segment::Key(key.clone()))?;
                    field.0 = name;
                }
                Some(())
            })
        })
    }

    /// Lets a step or sink take messages from a source or step, or from an arm (`step.arm`).
    ///
    /// # Errors
    ///
    /// When it does already, or is not there; the text is as before then.
    pub fn connect(&mut self, from: &str, to: &str) -> Result<(), EditError> {
        self.edit(|editor| {
            let path = editor.taker(to)?;
            let field = below_key(&path, "from");
            if editor.input(&path, |input| input == from).is_some() {
                return Err(EditError::Exists { path: format!("{} with {from}", shown(&field)) });
            }
            let new = Value::Word(from.to_owned());
            let node = editor.spot(&field).map(|spot| spot.node);
            match node.map(|node| &node.value) {
                None | Some(Tree::Null) => editor.put(&field, &new),
                Some(Tree::List(items)) => {
                    let end = items.len();
                    editor.insert_item(&field, end, &new)
                }
                Some(_) => {
                    let before = node.map_or(Value::Null, Value::of);
                    editor.replace(&field, &Value::List(vec![before, new]), false)
                }
            }
        })
    }

    /// Lets a step or sink take no more messages from a source, step or arm.
    ///
    /// # Errors
    ///
    /// When it takes none from there, or is not there; the text is as before then.
    pub fn disconnect(&mut self, from: &str, to: &str) -> Result<(), EditError> {
        self.edit(|editor| {
            let path = editor.taker(to)?;
            let input = editor.input(&path, |input| input == from);
            let not_there =
                || EditError::NotThere { path: format!("{}.from with {from}", shown(&path)) };
            let input = input.ok_or_else(not_there)?;
            editor.take(&input)
        })
    }

    /// Makes the edge between two durable: `true`, or a mapping of settings. With nothing it is durable no more.
    ///
    /// # Errors
    ///
    /// When there is no such edge; the text is as before then.
    pub fn set_durable(
        &mut self,
        from: &str,
        to: &str,
        durable: Option<&Value>,
    ) -> Result<(), EditError> {
        self.edit(|editor| {
            let path = editor.taker(to)?;
            let found = editor.inputs(&path).into_iter().find(|(_, input)| input == from);
            let not_there =
                || EditError::NotThere { path: format!("{}.from with {from}", shown(&path)) };
            let (mut input, _) = found.ok_or_else(not_there)?;
            let named = matches!(input.last(), Some(Segment::Key(key)) if key == "name");
            if named {
                input.pop();
            }
            let setting = below_key(&input, "durable");
            let name = ("name".to_owned(), Value::Word(from.to_owned()));
            match (durable, named) {
                (Some(durable), true) => editor.put(&setting, durable),
                (Some(durable), false) => {
                    let whole = vec![name, ("durable".to_owned(), durable.clone())];
                    editor.replace(&input, &Value::Map(whole), false)
                }
                (None, true) if editor.spot(&setting).is_some() => {
                    match &editor.need(&input)?.node.value {
                        // A name alone needs no braces.
                        Tree::Map(fields) if fields.len() == 2 => {
                            editor.replace(&input, &name.1, true)
                        }
                        _ => editor.take(&setting),
                    }
                }
                (None, _) => Ok(()),
            }
        })
    }

    /// Gives a value of a step's `config`.
    ///
    /// # Errors
    ///
    /// When there is no such step; the text is as before then.
    pub fn set_config(&mut self, step: &str, name: &str, value: &Value) -> Result<(), EditError> {
        self.edit(|editor| {
            editor.need(&keys(["steps", step]))?;
            editor.put(&keys(["steps", step, "config", name]), value)
        })
    }

    /// Says what a source or sink means here: `{ mqtt: { url: ..., topic: ... } }`.
    ///
    /// # Errors
    ///
    /// When there is no such source or sink; the text is as before then.
    pub fn set_binding(&mut self, name: &str, binding: &Value) -> Result<(), EditError> {
        self.edit(|editor| {
            let is_sink = editor.spot(&keys(["sinks", name])).is_some();
            let is_source = editor.index_in_sources(name).is_some()
                || editor.spot(&keys(["sources", name])).is_some();
            match (is_source, is_sink) {
                (true, _) => editor.put(&keys(["binding", "sources", name]), binding),
                (_, true) => editor.put(&keys(["binding", "sinks", name]), binding),
                _ => Err(EditError::NotThere { path: name.to_owned() }),
            }
        })
    }

    /// Whether a name can be given to a source, step or sink.
    fn free(&self, name: &str) -> Result<(), EditError> {
        if name_syntax(name, locate::Path::default(), Part::Key).is_some() {
            return Err(EditError::Name { name: name.chars().take(80).collect() });
        }
        let taken = SECTIONS
            .iter()
            .map(|section| keys([*section, name]))
            .find(|path| self.spot(path).is_some());
        match taken {
            Some(path) => Err(EditError::Exists { path: shown(&path) }),
            None if self.index_in_sources(name).is_some() => {
                Err(EditError::Exists { path: shown(&keys(["sources", name])) })
            }
            None => Ok(()),
        }
    }

    /// The names in a mapping.
    fn names(&self, path: &[Segment]) -> Vec<String> {
        match self.spot(path).map(|spot| &spot.node.value) {
            Some(Tree::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// Where a source is in `sources: [a, b]`.
    fn index_in_sources(&self, name: &str) -> Option<usize> {
        match &self.spot(&keys(["sources"]))?.node.value {
            Tree::List(items) => items
                .iter()
                .position(|item| matches!(&item.value, Tree::Scalar(text) if text == name)),
            _ => None,
        }
    }

    /// Every step and sink.
    fn takers(&self) -> Vec<Path> {
        let of = |section: &'static str| {
            self.names(&keys([section])).into_iter().map(move |name| keys([section, &name]))
        };
        of("steps").chain(of("sinks")).collect()
    }

    fn taker(&self, name: &str) -> Result<Path, EditError> {
        let mut paths = ["steps", "sinks"].iter().map(|section| keys([*section, name]));
        let found = paths.find(|path| self.spot(path).is_some());
        found.ok_or_else(|| EditError::NotThere { path: name.to_owned() })
    }

    /// What a step or sink takes messages from, each with the path of its name.
    fn inputs(&self, taker: &[Segment]) -> Vec<(Path, String)> {
        // A step that stands for another pipeline may have an input for each of its sources.
        let several = below_key(taker, "inputs");
        let fields = self.names(&several).into_iter().map(|name| below_key(&several, &name));
        fields.chain([below_key(taker, "from")]).flat_map(|field| self.inputs_at(field)).collect()
    }

    fn inputs_at(&self, field: Path) -> Vec<(Path, String)> {
        let Some(spot) = self.spot(&field) else { return Vec::new() };
        let one = |path: Path, node: &Node| {
            let name = input_name(node)?.to_owned();
            let path =
                if matches!(node.value, Tree::Map(_)) { below_key(&path, "name") } else { path };
            Some((path, name))
        };
        match &spot.node.value {
            Tree::List(items) => {
                let items = items.iter().enumerate();
                items
                    .filter_map(|(index, item)| one(below(&field, Segment::Index(index)), item))
                    .collect()
            }
            _ => one(field.clone(), spot.node).into_iter().collect(),
        }
    }

    /// The path of the whole of an input: an item of `from`, or `from` itself where it is the only one.
    fn input(&self, taker: &[Segment], is: impl Fn(&str) -> bool) -> Option<Path> {
        let inputs = self.inputs(taker);
        let (mut path, _) = inputs.iter().find(|(_, input)| is(input)).cloned()?;
        if matches!(path.last(), Some(Segment::Key(key)) if key == "name") {
            path.pop();
        }
        let alone = matches!(path.last(), Some(Segment::Index(_)))
            && path
                .split_last()
                .and_then(|(_, list)| self.spot(list))
                .is_some_and(|list| super::children(list.node) == 1);
        if alone {
            path.pop();
        }
        Some(path)
    }

    /// Whether a path names a field that is there.
    ///
    /// # Errors
    ///
    /// When the path is none.
    pub fn has(&self, path: &str) -> Result<bool, EditError> {
        Ok(self.spot(&path_of(path)?).is_some())
    }
}
