//! A program on a pseudo-terminal, whose output a test reads and to which it types.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A timeout that only a hang reaches.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Terminal {
    process: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// Output that no wait has consumed yet.
    shown: String,
}

impl Terminal {
    pub fn start(mut command: Command) -> Terminal {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
        grantpt(&controller).expect("it is ours");
        unlockpt(&controller).expect("it is ours");
        let name = ptsname(&controller, Vec::new()).expect("it has a name");
        let name = OsStr::from_bytes(name.as_bytes());
        let side = || OpenOptions::new().read(true).write(true).open(name).expect("the other side");
        command.env("TERM", "xterm").stdin(side()).stdout(side()).stderr(side());
        let process = command.spawn().expect("the program runs");
        // Only the process has the other side open now, so reading ends with it.
        drop(command);
        let keyboard = File::from(controller);
        let mut output = keyboard.try_clone().expect("a second handle");
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { process, keyboard, screen, shown: String::new() }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Interrupts the process like Ctrl-C, which does not work here because this is not its
    /// controlling terminal.
    pub fn interrupt(&self) {
        crate::server::send_signal(self.id(), "INT");
    }

    pub fn type_text(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("somebody reads it");
    }

    /// Waits until `text` appears, and returns the output before it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            if let Some((before, behind)) = self.shown.split_once(text) {
                let before = before.to_string();
                self.shown = behind.to_string();
                return before;
            }
            match self.screen.recv_timeout(PATIENCE) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("`{text}` does not come; on the screen is:\n{}", self.shown),
            }
        }
    }

    /// Waits for the end. Returns the exit status and the remaining output.
    #[track_caller]
    pub fn wait(mut self) -> (Option<i32>, String) {
        let mut shown = std::mem::take(&mut self.shown);
        while let Ok(bytes) = self.screen.recv_timeout(PATIENCE) {
            shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        (self.process.wait().expect("it was started here").code(), shown)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The process has ended already if the test waited for it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
