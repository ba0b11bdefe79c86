//! The command, as the shell knows it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;

/// Something does not add up.
const EXIT_FINDINGS: u8 = 1;

/// There was no audit: the file is missing, or no store.
const EXIT_NO_AUDIT: u8 = 2;

/// The arguments of `taugate audit`.
#[derive(Clone, Debug, clap::Args)]
pub struct AuditArgs {
    /// The store's file.
    file: PathBuf,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

// === impl AuditArgs ===

impl AuditArgs {
    /// Audits and tells. It ends with 0 when everything adds up, 1 when something does not, 2
    /// when there was no audit.
    #[must_use]
    pub fn run(&self, print: impl Fn(&str), complain: impl Fn(&str)) -> ExitCode {
        let bar = ProgressBar::new(0);
        bar.enable_steady_tick(Duration::from_millis(200));
        let audited = super::audit(&self.file, |progress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
        });
        bar.finish_and_clear();
        let report = match audited {
            Ok(report) => report,
            Err(error) => {
                complain(&error.to_string());
                return ExitCode::from(EXIT_NO_AUDIT);
            }
        };
        if self.json {
            print(&report.to_json());
        } else {
            print(&report.to_string());
        }
        if report.is_clean() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(EXIT_FINDINGS)
        }
    }
}
