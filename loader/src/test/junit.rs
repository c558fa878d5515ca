//! The result of a test as JUnit XML: one suite for each build of a policy, one case for each scenario.

use std::fs;
use std::path::Path;
use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use crate::error::{Error, Exit};

use super::{Report, Tested, file_name};

/// Writes `report` to the file at `path`.
pub(super) fn write(report: &Report, path: &Path) -> Result<(), Error> {
    let text = document(report)
        .to_string()
        .map_err(|error| Error::new("junit", Exit::Partial, format!("cannot write JUnit XML: {error}")))?;
    fs::write(path, text).map_err(|error| Error::file("write", path, &error))
}

fn document(report: &Report) -> quick_junit::Report {
    let mut document = quick_junit::Report::new("tidegate test");
    document.set_time(Duration::from_secs_f64(report.seconds));
    for suite in report.scenarios.chunk_by(|one, next| (&one.file, &one.object) == (&next.file, &next.object))
    {
        let [first, ..] = suite else { continue };
        let name = format!("{} with {}", first.file.display(), file_name(&first.object));
        let mut written = TestSuite::new(name.as_str());
        written.set_time(Duration::from_secs_f64(suite.iter().map(|tested| tested.seconds).sum()));
        written.add_property(("seed", report.seed.to_string().as_str()));
        written.add_test_cases(suite.iter().map(|tested| case(tested, &name)));
        document.add_test_suite(written);
    }
    document
}

fn case(tested: &Tested, suite: &str) -> TestCase {
    let status = match &tested.failure {
        None => TestCaseStatus::success(),
        Some(failure) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(failure.wrong.first().cloned().unwrap_or_default());
            status.set_description(failure.at(tested));
            status
        }
    };
    let mut case = TestCase::new(tested.scenario.as_str(), status);
    case.set_classname(suite);
    case.set_time(Duration::from_secs_f64(tested.seconds));
    case.extra.insert("file".into(), tested.file.display().to_string().into());
    case.extra.insert("line".into(), tested.line.to_string().into());
    case
}
