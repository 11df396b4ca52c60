;; A component with the interface of a stage that answers ok and does nothing: what a call costs that carries the same
;; body into a new instance.
(component
  (core module $code
    (memory (export "memory") 32)
    ;; Arguments are put one after the other; an instance lives for one call.
    (global $next (mut i32) (i32.const 1024))
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at
        (i32.and
          (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
      (global.set $next (i32.add (local.get $at) (local.get $size)))
      (local.get $at))
    ;; Address 16 holds zeroes, which is the result `ok`.
    (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 16)))
  (core instance $code (instantiate $code))
  (type $message (record (field "subject" string) (field "body" (list u8)) (field "reply-to" (option string))))
  (export $broker-message "broker-message" (type $message))
  (func $handle (param "msg" $broker-message) (result (result (error string)))
    (canon lift (core func $code "handle") (memory $code "memory") (realloc (func $code "realloc"))))
  (instance $handler (export "handle-message" (func $handle)))
  (export "wasmcloud:messaging/handler@0.2.0" (instance $handler)))
