//! Where a status is shown that is looked at again and again: in place on a terminal, one
//! block after the other elsewhere.

use std::io::Write;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where it is shown.
#[derive(Debug)]
pub(super) struct Screen {
    /// What is redrawn; `None` where nothing can be.
    picture: Option<ProgressBar>,
    last: String,
}

// === impl Screen ===

impl Screen {
    pub(super) fn new(terminal: bool) -> Self {
        let picture = terminal.then(|| {
            let target = ProgressDrawTarget::stdout_with_hz(20);
            let picture = ProgressBar::with_draw_target(None, target);
            match ProgressStyle::with_template("{msg}") {
                Ok(style) => picture.with_style(style),
                Err(_) => picture,
            }
        });
        Self {
            picture,
            last: String::new(),
        }
    }

    /// Shows it in place of what was shown before, or behind it.
    pub(super) fn show(&mut self, text: &str, out: &mut impl Write) -> std::io::Result<()> {
        match &self.picture {
            Some(picture) => {
                picture.set_message(text.to_owned());
                picture.tick();
                text.clone_into(&mut self.last);
                Ok(())
            }
            // An object a line needs nothing in between, a table does.
            None if text.contains('\n') => writeln!(out, "{text}\n"),
            None => writeln!(out, "{text}"),
        }
    }

    /// Says why there is nothing new, below what was there last.
    #[expect(clippy::print_stderr, reason = "this is a command's complaint")]
    pub(super) fn remark(&self, why: &str) {
        match &self.picture {
            Some(picture) => {
                picture.set_message(format!("{}\n\n{why}", self.last));
                picture.tick();
            }
            None => eprintln!("taugate: {why}"),
        }
    }

    /// Leaves the last of it on the terminal.
    pub(super) fn end(&self) {
        if let Some(picture) = &self.picture {
            picture.set_message(self.last.clone());
            picture.abandon();
        }
    }
}
