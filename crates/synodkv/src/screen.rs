//! A terminal on which one page is drawn repeatedly in place.
//!
//! It uses the terminal's alternate screen, so that the previous content comes back at the end. The
//! codes are those of ECMA-48 and xterm, which every terminal in use today understands.

use std::io::IsTerminal;

use rustix::termios::tcgetwinsize;

use crate::failure::Failure;
use crate::output;

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_TO_END_OF_LINE: &str = "\x1b[K";
const CLEAR_TO_END_OF_SCREEN: &str = "\x1b[J";

/// An open alternate screen. Dropping it restores the terminal.
pub struct Screen(());

impl Screen {
    /// Opens the screen; `None` if standard output is not a terminal that can draw.
    pub fn open() -> Result<Option<Screen>, Failure> {
        let is_dumb = std::env::var_os("TERM").is_none_or(|kind| kind == "dumb");
        if is_dumb || !std::io::stdout().is_terminal() {
            return Ok(None);
        }
        output::write(ENTER.as_bytes())?;
        Ok(Some(Screen(())))
    }

    /// Shows as much of the page as fits.
    pub fn draw(&self, page: &str) -> Result<(), Failure> {
        let size = tcgetwinsize(std::io::stdout()).ok();
        // A terminal that does not know its size says 0.
        let room = |cells: Option<u16>, usual| cells.filter(|cells| *cells > 0).unwrap_or(usual);
        let rows = room(size.map(|size| size.ws_row), 24);
        let columns = room(size.map(|size| size.ws_col), 80);
        output::write(frame(page, rows.into(), columns.into()).as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to report a failure to.
        let _ = output::write(LEAVE.as_bytes());
    }
}

/// Overwrites the previous page line by line, so that nothing flickers.
fn frame(page: &str, rows: usize, columns: usize) -> String {
    // Terminals differ in what they clear when the cursor is in the last column.
    let cut = |line: &str| line.chars().take(columns - 1).collect::<String>() + CLEAR_TO_END_OF_LINE;
    let lines: Vec<String> = page.lines().take(rows).map(cut).collect();
    format!("{HOME}{}{CLEAR_TO_END_OF_SCREEN}", lines.join("\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_to_the_room_that_there_is() {
        let drawn = frame("first line\nsecond\nthird", 2, 6);
        assert_eq!(drawn, "\x1b[Hfirst\x1b[K\r\nsecon\x1b[K\x1b[J");
    }
}
