//! The demo's pump: a tank that a pump fills and a valve empties, behind a Modbus device in this process.
//!
//! | register | address | what |
//! |---|---|---|
//! | input | 30001 | level of the tank, in tenths of a percent |
//! | coil | 00001 | relay of the pump, readable and writable |
//! | holding | 40001 | opening of the valve, in percent, readable and writable |

use std::future::{Ready, ready};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::Server;
use tokio_modbus::{ExceptionCode, Request, Response};

/// What the running pump adds, in percent of the tank a second.
const INFLOW: f64 = 40.0;

/// What the fully open valve takes out, in percent of the tank a second.
const OUTFLOW: f64 = 20.0;

/// Between two steps of the simulation.
const STEP: Duration = Duration::from_millis(10);

/// The plant as it is now, and what the control loop has made of it.
#[derive(Debug, Clone)]
pub(super) struct Plant {
    /// Percent of the tank.
    pub(super) level: f64,
    pub(super) pump: bool,
    /// Percent open.
    valve: u16,
    /// How often the relay was switched.
    pub(super) switches: u64,
    /// Lowest and highest level since the relay was switched for the second time: before its first time the tank may have
    /// run empty, and until the second it may be filling from there.
    pub(super) range: Option<(f64, f64)>,
    limits: (f64, f64),
    /// When the level left the limits in the direction in which the relay should be switched.
    overdue: Option<Instant>,
    /// From there to the switch, each.
    pub(super) delays: Vec<Duration>,
}

impl Plant {
    fn new(limits: (f64, f64)) -> Self {
        Self {
            level: 50.0,
            pump: false,
            valve: 75,
            switches: 0,
            range: None,
            limits,
            overdue: None,
            delays: Vec::new(),
        }
    }

    fn advance(&mut self, seconds: f64) {
        let inflow = if self.pump { INFLOW } else { 0.0 };
        let outflow = OUTFLOW * f64::from(self.valve) / 100.0;
        self.level = (self.level + (inflow - outflow) * seconds).clamp(0.0, 100.0);
        if let Some((low, high)) = &mut self.range {
            *low = low.min(self.level);
            *high = high.max(self.level);
        }
        let due = if self.pump { self.level >= self.limits.1 } else { self.level <= self.limits.0 };
        if due && self.overdue.is_none() {
            self.overdue = Some(Instant::now());
        }
    }

    fn switch(&mut self, on: bool) {
        if on == self.pump {
            return;
        }
        self.pump = on;
        self.switches += 1;
        if self.switches == 2 {
            self.range = Some((self.level, self.level));
        }
        self.delays.extend(self.overdue.take().map(|since| since.elapsed()));
    }

    /// Answers a master.
    fn answer(&mut self, request: &Request<'_>) -> Result<Response, ExceptionCode> {
        let level = (self.level * 10.0).round() as u16;
        match request {
            Request::ReadInputRegisters(0, 1) => Ok(Response::ReadInputRegisters(vec![level])),
            Request::ReadHoldingRegisters(0, 1) => {
                Ok(Response::ReadHoldingRegisters(vec![self.valve]))
            }
            Request::ReadCoils(0, 1) => Ok(Response::ReadCoils(vec![self.pump])),
            Request::WriteSingleCoil(0, on) => {
                self.switch(*on);
                Ok(Response::WriteSingleCoil(0, *on))
            }
            Request::WriteMultipleCoils(0, coils) => match coils.as_ref() {
                [on] => {
                    self.switch(*on);
                    Ok(Response::WriteMultipleCoils(0, 1))
                }
                _ => Err(ExceptionCode::IllegalDataAddress),
            },
            Request::WriteSingleRegister(0, percent @ 0..=100) => {
                self.valve = *percent;
                Ok(Response::WriteSingleRegister(0, *percent))
            }
            Request::WriteSingleRegister(0, _) => Err(ExceptionCode::IllegalDataValue),
            Request::ReadInputRegisters(..)
            | Request::ReadHoldingRegisters(..)
            | Request::ReadCoils(..)
            | Request::WriteSingleCoil(..)
            | Request::WriteMultipleCoils(..)
            | Request::WriteSingleRegister(..) => Err(ExceptionCode::IllegalDataAddress),
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }
}

/// The device, and a look at its plant.
#[derive(Debug, Clone)]
pub(super) struct Pump {
    pub(super) port: u16,
    plant: Arc<Mutex<Plant>>,
}

impl Pump {
    /// Starts the device on a free port of the loopback interface; it ends with the process. `limits` are those that the
    /// pipeline keeps, to measure how fast it reacts.
    pub(super) async fn start(limits: (f64, f64)) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("no free port for the pump's Modbus device")?;
        let port = listener.local_addr().context("the pump's Modbus device has no address")?.port();
        let plant = Arc::new(Mutex::new(Plant::new(limits)));
        let running = Arc::clone(&plant);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(STEP);
            let mut before = Instant::now();
            loop {
                tick.tick().await;
                let now = Instant::now();
                running.lock().advance(now.duration_since(before).as_secs_f64());
                before = now;
            }
        });
        let device = Device(Arc::clone(&plant));
        tokio::spawn(async move {
            let connected = |stream, _| ready(Ok(Some((device.clone(), stream))));
            // A master that talks nonsense loses its connection; the device goes on.
            if let Err(e) = Server::new(listener).serve(&connected, |_| {}).await {
                eprintln!("the pump's Modbus device ended: {e}");
            }
        });
        Ok(Self { port, plant })
    }

    /// The plant now.
    pub(super) fn look(&self) -> Plant {
        self.plant.lock().clone()
    }
}

#[derive(Debug, Clone)]
struct Device(Arc<Mutex<Plant>>);

impl Service for Device {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(self.0.lock().answer(&request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tank_fills_and_empties_and_counts_what_was_switched() {
        let mut plant = Plant::new((30.0, 70.0));
        plant.advance(10.0);
        assert_eq!((plant.level, plant.range), (0.0, None));
        assert!(plant.overdue.is_some());
        plant.answer(&Request::WriteSingleCoil(0, true)).unwrap();
        plant.answer(&Request::WriteSingleCoil(0, true)).unwrap();
        plant.advance(2.0);
        assert_eq!((plant.level, plant.switches, plant.delays.len()), (50.0, 1, 1));
        assert_eq!(plant.range, None, "it was filled from where it was when the loop began");
        assert_eq!(
            plant.answer(&Request::ReadInputRegisters(0, 1)).unwrap(),
            Response::ReadInputRegisters(vec![500])
        );
        plant.answer(&Request::WriteSingleCoil(0, false)).unwrap();
        assert_eq!(plant.range, Some((50.0, 50.0)));
        plant.advance(2.0);
        plant.answer(&Request::WriteSingleCoil(0, true)).unwrap();
        plant.advance(1.0);
        assert_eq!(plant.range, Some((20.0, 50.0)));
    }

    #[test]
    fn other_registers_and_values_are_exceptions() {
        let mut plant = Plant::new((30.0, 70.0));
        for (request, code) in [
            (Request::ReadCoils(1, 1), ExceptionCode::IllegalDataAddress),
            (Request::WriteSingleRegister(0, 101), ExceptionCode::IllegalDataValue),
            (Request::ReportServerId, ExceptionCode::IllegalFunction),
        ] {
            assert_eq!(plant.answer(&request), Err(code));
        }
    }
}
