//! Reads definitions and puts everything together: text, tree, model,
//! findings with their places.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path as FilePath, PathBuf};

use crate::component::ComponentFileError;
use crate::finding::{Finding, Issue, Lines, Severity, render};
use crate::lint;
use crate::lint_test;
use crate::locate::{Part, Path, locate, quoted};
use crate::lock::{Lock, LockedHarness, LockedPipeline};
use crate::model::{Binding, Pipeline};
use crate::parameters::{self, Expanded, Given, Parameter, ParameterValue, ValueOrigin, Values};
use crate::plan::{self, Plan, PlanError};
use crate::read::{ISSUES_MAX, Reader};
use crate::sub::{self, Chain, SubReader};
use crate::test::{Case, Test};
use crate::tree::{self, Node, TEXT_MAX, Value};

/// One text and the name of its file. Relative paths inside the text are from
/// the file's folder.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// Path of the file, as findings show it.
    pub file: &'a str,
    /// The text.
    pub text: &'a str,
}

/// What to check beside the definition itself.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether the components' files must be there.
    pub check_files: bool,
    /// Values of parameters, which come before those of the binding.
    pub parameters: BTreeMap<String, String>,
}

/// Gives the text of a sub-pipeline's file, whose path is from where the path of the definition is from.
pub type Library<'a> = &'a dyn Fn(&FilePath) -> Result<String, LoadError>;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not there or may not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not text.
    #[error("{path} is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
}

/// A definition that was read, with everything found wrong.
#[derive(Debug, Clone)]
pub struct Loaded {
    pipeline: Option<Pipeline>,
    findings: Vec<Finding>,
    texts: Vec<(String, String)>,
    /// The folder component paths are from.
    folder: PathBuf,
    /// The tests with their places.
    cases: Vec<Case>,
    /// Whether every name of the graph could be read.
    graph: bool,
    /// The parameters with their values.
    values: Values,
    /// The files of the sub-pipelines, by the names of the steps that call them.
    pipelines: BTreeMap<String, LockedPipeline>,
}

impl Loaded {
    /// The model; absent when the text is not YAML or not a mapping. It is
    /// only meant to be used when there are no errors.
    #[must_use]
    pub fn pipeline(&self) -> Option<&Pipeline> {
        self.pipeline.as_ref()
    }

    /// Everything found, in the order of the text: the definition's, its binding's, and that of each sub-pipeline.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether anything stands against deploying it.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// The parameters that have a value, by name. The model and the plan have the values in their places.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &ParameterValue)> {
        self.values.known()
    }

    /// The tests of the definition, and of the files that were added, in the
    /// order in which they are written.
    #[must_use]
    pub fn tests(&self) -> &[Case] {
        &self.cases
    }

    /// Adds the tests of a file that has nothing else: the language's version,
    /// the pipeline's name if you like, and `tests`.
    pub fn add_tests(&mut self, document: Document<'_>, options: &Options) {
        let mut beside = Source::parse(document);
        beside.expand(&self.values);
        let mut reader = Reader::default();
        let read = beside.tree.as_ref().and_then(|tree| reader.tests_file(tree));
        beside.take(&mut reader);
        let folder = folder_of(document.file);
        if let (Some((mut tests, name)), Some(pipeline)) = (read, &mut self.pipeline) {
            beside.issues.extend(other_pipeline("these tests are", name.as_deref(), pipeline));
            tests.retain(|name, _| {
                let first = !pipeline.tests.contains_key(name);
                if !first {
                    let message = format!("another test is called {}", quoted(name));
                    let path = Path::of(["tests", name]);
                    let issue = Issue::error("duplicate", path, Part::Key, message);
                    beside.issues.push(issue.mend("give one of the two another name"));
                }
                first
            });
            let files = options.check_files.then_some(folder.as_path());
            for issue in lint_test::issues(pipeline, &tests, self.graph, files) {
                if !beside.has_said(&issue) {
                    beside.issues.push(issue);
                }
            }
            self.cases.extend(beside.cases(&tests, &folder));
            pipeline.tests.extend(tests);
        }
        self.texts.push((document.file.to_owned(), document.text.to_owned()));
        self.findings.extend(beside.findings());
        self.findings.truncate(ISSUES_MAX);
    }

    /// Adds the tests of a file, as [`Loaded::add_tests`] does.
    ///
    /// # Errors
    ///
    /// When the file cannot be read. What is wrong inside is in the findings.
    pub fn add_tests_file(&mut self, file: &FilePath, options: &Options) -> Result<(), LoadError> {
        let text = read_text(file)?;
        self.add_tests(Document { file: &file.to_string_lossy(), text: &text }, options);
        Ok(())
    }

    /// For running it without a lattice: forgets the findings that sources and
    /// sinks are not bound, which is no mistake there.
    #[must_use]
    pub fn at_the_desk(mut self) -> Self {
        self.findings.retain(|finding| !plan::only_in_a_lattice(finding));
        self
    }

    /// The findings as a compiler shows them, each with its line and a caret,
    /// and a last line that counts them. Empty when there are none.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        if self.findings.is_empty() {
            return String::new();
        }
        let lines: Vec<(&str, Lines<'_>)> =
            self.texts.iter().map(|(file, text)| (file.as_str(), Lines::new(text))).collect();
        let mut out = String::new();
        for finding in &self.findings {
            let file = finding.location.as_ref().map(|at| at.file.as_str());
            let lines = lines.iter().find(|(name, _)| Some(*name) == file).map(|(_, lines)| lines);
            out.push_str(&render(finding, lines, colour));
            out.push_str("\n\n");
        }
        let errors = self.findings.iter().filter(|f| f.severity == Severity::Error).count();
        let warnings = self.findings.len() - errors;
        out.push_str(&format!("{}, {}\n", counted(errors, "error"), counted(warnings, "warning")));
        out
    }

    /// What a lock file says of it now. A definition that cannot be read is made of nothing.
    ///
    /// # Errors
    ///
    /// When the file of a component cannot be read.
    pub fn lock(&self, harness: LockedHarness) -> Result<Option<Lock>, ComponentFileError> {
        let Some(pipeline) = &self.pipeline else { return Ok(None) };
        let lock = Lock::of(pipeline, &self.folder, harness)?;
        Ok(Some(Lock { pipelines: self.pipelines.clone(), ..lock }))
    }

    /// What is to be deployed.
    ///
    /// # Errors
    ///
    /// When the definition has errors, or no binding.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        match &self.pipeline {
            Some(pipeline) if !self.has_errors() => plan::plan(pipeline, &self.folder),
            _ => Err(PlanError::Errors(self.findings.clone())),
        }
    }

    /// What is to be run without a lattice, where sources and sinks need no
    /// binding.
    ///
    /// # Errors
    ///
    /// When the definition has other errors, or components are not bound.
    pub fn desk_plan(&self) -> Result<Plan, PlanError> {
        let errors = |finding: &&Finding| {
            finding.severity == Severity::Error && !plan::only_in_a_lattice(finding)
        };
        match &self.pipeline {
            Some(pipeline) if !self.findings.iter().any(|finding| errors(&finding)) => {
                plan::desk_plan(pipeline, &self.folder)
            }
            _ => Err(PlanError::Errors(self.findings.iter().filter(errors).cloned().collect())),
        }
    }
}

pub(crate) fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Reads a pipeline's file and, if given, the file with its binding.
///
/// # Errors
///
/// When a file cannot be read. What is wrong inside is in the findings.
pub fn load_files(
    pipeline: &FilePath,
    binding: Option<&FilePath>,
    options: &Options,
) -> Result<Loaded, LoadError> {
    let pipeline_text = read_text(pipeline)?;
    let binding_text = binding.map(read_text).transpose()?;
    let pipeline_file = pipeline.to_string_lossy();
    let binding_file = binding.map(FilePath::to_string_lossy);
    let binding = match (&binding_file, &binding_text) {
        (Some(file), Some(text)) => Some(Document { file, text }),
        _ => None,
    };
    let document = Document { file: &pipeline_file, text: &pipeline_text };
    Ok(load_with(document, binding, options, &|file| read_text(file)))
}

/// The text of a file; of one that is too long only as much as shows that.
///
/// # Errors
///
/// When the file cannot be read, or is no text.
pub fn read_text(path: &FilePath) -> Result<String, LoadError> {
    let error = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let limit = u64::try_from(TEXT_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(error)?.take(limit).read_to_end(&mut bytes).map_err(error)?;
    let too_long = bytes.len() > TEXT_MAX;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // Cut off inside a character: it is refused for its length.
        Err(e) if too_long => Ok(String::from_utf8_lossy(e.as_bytes()).into_owned()),
        Err(_) => Err(LoadError::NotText { path: path.to_owned() }),
    }
}

/// A document with what was understood of it.
pub(crate) struct Source<'a> {
    document: Document<'a>,
    pub(crate) tree: Option<Node>,
    issues: Vec<Issue>,
    /// How many of the issues come from reading.
    read: usize,
    /// What became of the parameters that it uses.
    pub(crate) expanded: Expanded,
}

impl<'a> Source<'a> {
    pub(crate) fn parse(document: Document<'a>) -> Self {
        let expanded = Expanded::default();
        match tree::parse(document.text) {
            Ok(tree) => Self { document, tree: Some(tree), issues: Vec::new(), read: 0, expanded },
            Err(error) => {
                let issue = Issue::error("yaml", Path::default(), Part::Value, error.message)
                    .maybe_mend(error.mend.map(str::to_owned))
                    .at(error.span);
                Self { document, tree: None, issues: vec![issue], read: 1, expanded }
            }
        }
    }

    /// Puts the values of parameters in.
    pub(crate) fn expand(&mut self, values: &Values) {
        if let Some(tree) = &mut self.tree {
            self.expanded = parameters::expand(tree, values);
            self.issues.append(&mut self.expanded.issues);
        }
    }

    /// Whether it has a binding, be it wrong.
    fn has_binding(&self) -> bool {
        match self.tree.as_ref().map(|tree| &tree.value) {
            Some(Value::Map(entries)) => entries.iter().any(|entry| entry.key == "binding"),
            _ => false,
        }
    }

    /// Notes what reading found.
    pub(crate) fn take(&mut self, reader: &mut Reader) {
        self.issues.append(&mut reader.issues);
        self.read = self.issues.len();
    }

    /// Whether reading already noted what lint says of a field: the model has
    /// a default or nothing there, and the author made one mistake.
    fn has_said(&self, issue: &Issue) -> bool {
        let absent = issue.rule == "missing-field";
        self.issues.iter().take(self.read).any(|read| {
            read.path == issue.path
                || read.meant.as_ref() == Some(&issue.path)
                || absent && (issue.path.is_within(&read.path) || read.path.is_within(&issue.path))
        })
    }

    /// Notes an issue, if it was not said already.
    fn put(&mut self, issue: Issue) {
        if !self.has_said(&issue) {
            self.issues.push(issue);
        }
    }

    /// Whether the value at this path is one whose parameters have none.
    fn is_open(&self, path: &Path) -> bool {
        let Some(tree) = &self.tree else { return true };
        let (span, _) = locate(tree, path, Part::Value);
        self.expanded.holes.contains(&span.start)
    }

    /// Whether something stands against putting sub-pipelines in. That a source or sink is not bound does not.
    fn has_errors(&self) -> bool {
        let ends = |issue: &Issue| matches!(issue.path.section(), Some("sources" | "sinks"));
        self.issues.iter().any(|issue| {
            issue.severity == Severity::Error && !(issue.rule == "unbound" && ends(issue))
        })
    }

    /// Tests with their places, in the order of the text.
    fn cases(&self, tests: &BTreeMap<String, Test>, folder: &FilePath) -> Vec<Case> {
        let Some(tree) = &self.tree else { return Vec::new() };
        let lines = Lines::new(self.document.text);
        let case = |(name, test): (&String, &Test)| {
            let (span, _) = locate(tree, &Path::of(["tests", name]), Part::Key);
            let case = Case {
                name: name.clone(),
                location: lines.location(self.document.file, &span),
                folder: folder.to_owned(),
                test: test.clone(),
            };
            (span.start, case)
        };
        let mut cases: Vec<(usize, Case)> = tests.iter().map(case).collect();
        cases.sort_by_key(|(start, _)| *start);
        cases.into_iter().map(|(_, case)| case).collect()
    }

    /// The issues with their places, in the order of the text.
    pub(crate) fn findings(mut self) -> Vec<Finding> {
        let lines = Lines::new(self.document.text);
        for issue in &mut self.issues {
            if let (None, Some(tree)) = (&issue.span, &self.tree) {
                let (span, path) = locate(tree, &issue.path, issue.part);
                issue.span = Some(span);
                issue.path = path;
            }
        }
        let start = |issue: &Issue| issue.span.as_ref().map(|span| span.start);
        let Expanded { holes, notes, .. } = &self.expanded;
        // Of a place without a value it was said why.
        let at_hole = |issue: &Issue| start(issue).is_some_and(|at| holes.contains(&at));
        self.issues.retain(|issue| parameters::is_own(issue.rule) || !at_hole(issue));
        for issue in &mut self.issues {
            if let Some(note) = start(issue).and_then(|at| notes.get(&at)) {
                issue.message = format!("{} ({note})", issue.message);
            }
        }
        self.issues.sort_by_key(start);
        self.issues
            .into_iter()
            .map(|issue| {
                let location =
                    lines.location(self.document.file, &issue.span.clone().unwrap_or_default());
                Finding { location: Some(location), ..issue.unplaced() }
            })
            .collect()
    }
}

/// Reads a definition. `binding` is a document with only a binding, which
/// takes the place of the one in the definition. Sub-pipelines are not read, and are an error.
#[must_use]
pub fn load(pipeline: Document<'_>, binding: Option<Document<'_>>, options: &Options) -> Loaded {
    read(pipeline, binding, options, None)
}

/// Reads a definition, as [`load`] does, and the sub-pipelines that it calls.
#[must_use]
pub fn load_with(
    pipeline: Document<'_>,
    binding: Option<Document<'_>>,
    options: &Options,
    library: Library<'_>,
) -> Loaded {
    read(pipeline, binding, options, Some(library))
}

fn read(
    pipeline: Document<'_>,
    binding: Option<Document<'_>>,
    options: &Options,
    library: Option<Library<'_>>,
) -> Loaded {
    let mut main = Source::parse(pipeline);
    let mut beside = binding.map(Source::parse);
    let mut reader = Reader::default();
    let Parameters { declared, given, values } =
        read_parameters(&mut main, beside.as_mut(), &mut reader, options);
    let mut model = main.tree.as_ref().and_then(|tree| reader.pipeline(tree));
    reader.inputs_unread |= main.expanded.inputs_unread;
    if let Some(model) = &mut model {
        model.parameters = declared;
        if let Some(binding) = &mut model.binding {
            binding.parameters = parameters::texts(&given);
        }
    }
    main.take(&mut reader);
    if let Some(beside) = &mut beside {
        reader.binding_unread = false;
        let bound = read_binding(beside, &mut reader, model.as_ref());
        if let Some(model) = &mut model {
            model.binding = bound;
            if let Some(binding) = &mut model.binding {
                binding.parameters = parameters::texts(&given);
            }
        }
    }
    let folder = folder_of(beside.as_ref().map_or(pipeline.file, |beside| beside.document.file));
    let tests_folder = folder_of(pipeline.file);
    let mut subs = SubReader::new(library, options.check_files);
    let checked = model.as_mut().map(|model| {
        let place = Place {
            folder: &folder,
            tests_folder: &tests_folder,
            check_files: options.check_files,
            chain: Chain::of(pipeline.file),
        };
        check(model, &mut main, &mut beside, &reader, &place, &mut subs)
    });
    let Checked { graph, pipelines } = checked.unwrap_or_default();
    let tests = model.as_ref().map(|model| &model.tests);
    let cases = tests.map(|tests| main.cases(tests, &tests_folder)).unwrap_or_default();
    let mut texts = vec![(pipeline.file.to_owned(), pipeline.text.to_owned())];
    let mut findings = main.findings();
    if let Some(beside) = beside {
        texts.push((beside.document.file.to_owned(), beside.document.text.to_owned()));
        findings.extend(beside.findings());
    }
    let (of_subs, texts_of_subs) = subs.done();
    findings.extend(of_subs);
    texts.extend(texts_of_subs);
    findings.truncate(ISSUES_MAX);
    Loaded { pipeline: model, findings, texts, folder, cases, graph, values, pipelines }
}

/// Where a definition is, and what of it is checked.
pub(crate) struct Place<'a> {
    /// The folder that paths of components and sub-pipelines are from.
    pub(crate) folder: &'a FilePath,
    /// The folder that paths in tests are from.
    pub(crate) tests_folder: &'a FilePath,
    pub(crate) check_files: bool,
    /// Its file, and those that call it.
    pub(crate) chain: Chain<'a>,
}

/// What checking a definition has brought, beside what is wrong.
#[derive(Default)]
pub(crate) struct Checked {
    /// Whether every name of the graph is known.
    graph: bool,
    /// The files of the sub-pipelines.
    pub(crate) pipelines: BTreeMap<String, LockedPipeline>,
}

/// Checks a model, and puts the steps of its sub-pipelines in.
pub(crate) fn check(
    model: &mut Pipeline,
    main: &mut Source<'_>,
    beside: &mut Option<Source<'_>>,
    reader: &Reader,
    place: &Place<'_>,
    subs: &mut SubReader<'_>,
) -> Checked {
    let open = |path: &Path| match &*beside {
        Some(beside) if path.in_binding() => beside.is_open(path),
        _ => main.is_open(path),
    };
    let (called, mut issues) = subs.read(model, place.folder, &open, &place.chain);
    let checks = lint::Checks {
        files: place.check_files.then_some(place.folder),
        test_files: None,
        graph: !reader.graph_unread,
        inputs: !reader.inputs_unread,
        binding: !reader.binding_unread,
        calls: &sub::outlines(&called),
        expanded: false,
    };
    // They name steps that are not there yet.
    let tests = std::mem::take(&mut model.tests);
    issues.extend(lint::issues(model, &checks));
    put(issues, main, beside);
    let mut graph = !reader.graph_unread;
    if !model.calls.is_empty() {
        if !main.has_errors() && !beside.as_ref().is_some_and(Source::has_errors) {
            put(sub::expand(model, &called), main, beside);
        }
        graph &= model.calls.is_empty();
    }
    let files = place.check_files.then_some(place.tests_folder);
    put(lint_test::issues(model, &tests, graph, files), main, beside);
    model.tests = tests;
    Checked { graph, pipelines: sub::files(&called) }
}

/// Notes issues where they belong.
fn put(issues: Vec<Issue>, main: &mut Source<'_>, beside: &mut Option<Source<'_>>) {
    for issue in issues {
        match beside {
            Some(beside) if issue.path.in_binding() => beside.put(issue),
            _ => main.put(issue),
        }
    }
}

/// The parameters of a definition, what its binding gives them, and what they are.
struct Parameters {
    declared: BTreeMap<String, Parameter>,
    given: Given,
    values: Values,
}

/// Reads the parameters and puts their values into both files.
fn read_parameters(
    main: &mut Source<'_>,
    beside: Option<&mut Source<'_>>,
    reader: &mut Reader,
    options: &Options,
) -> Parameters {
    let declared = main.tree.as_ref().map(|tree| reader.parameters(tree)).unwrap_or_default();
    let of_main = main.tree.as_ref().map(|tree| reader.given_values(tree)).unwrap_or_default();
    main.take(reader);
    let given = match &beside {
        Some(beside) => {
            beside.tree.as_ref().map(|tree| reader.given_values(tree)).unwrap_or_default()
        }
        None => of_main,
    };
    let bound = beside.is_some() || main.has_binding() || !options.parameters.is_empty();
    let sources = parameters::Sources {
        definition: "the definition",
        binding: &given,
        at: Path::of(["binding", "parameters"]),
        origin: ValueOrigin::Binding,
        given: &options.parameters,
        bound,
    };
    let (values, of_definition, of_binding) = parameters::resolve(&declared, &sources);
    main.issues.extend(of_definition);
    main.expand(&values);
    let unused = match beside {
        Some(beside) => {
            beside.take(reader);
            beside.issues.extend(of_binding);
            beside.expand(&values);
            match beside.tree {
                Some(_) => parameters::unused(&declared, &[&main.expanded, &beside.expanded]),
                None => Vec::new(),
            }
        }
        None => {
            main.issues.extend(of_binding);
            // What is not bound yet may use them there.
            if bound { parameters::unused(&declared, &[&main.expanded]) } else { Vec::new() }
        }
    };
    main.issues.extend(unused);
    Parameters { declared: declared.parameters, given, values }
}

fn read_binding(
    beside: &mut Source<'_>,
    reader: &mut Reader,
    pipeline: Option<&Pipeline>,
) -> Option<Binding> {
    let read = beside.tree.as_ref().and_then(|tree| reader.binding_file(tree));
    beside.take(reader);
    // Unreadable was reported: that names are not bound would only repeat it.
    reader.binding_unread |= read.is_none();
    let (binding, name) = read?;
    if let Some(pipeline) = pipeline {
        beside.issues.extend(other_pipeline("this binding is", name.as_deref(), pipeline));
    }
    Some(binding)
}

/// What is to be said of a file beside the definition that names another
/// pipeline.
fn other_pipeline(what: &str, name: Option<&str>, pipeline: &Pipeline) -> Option<Issue> {
    let name = name.filter(|name| *name != pipeline.pipeline)?;
    let message =
        format!("{what} for the pipeline {}, not for {}", quoted(name), quoted(&pipeline.pipeline));
    let issue = Issue::error("unknown-name", Path::of(["pipeline"]), Part::Value, message);
    let noun = what.split(' ').nth(1).unwrap_or_default();
    Some(issue.mend(format!("give the {noun} of this pipeline, or leave the field out")))
}

/// The folder a file is in; relative when the file's path is.
pub(crate) fn folder_of(file: &str) -> PathBuf {
    FilePath::new(file).parent().map(FilePath::to_owned).unwrap_or_default()
}
