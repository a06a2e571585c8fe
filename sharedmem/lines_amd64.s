#include "textflag.h"

// func prefetchRead(at *uintptr, n int)
TEXT ·prefetchRead(SB), NOSPLIT, $0-16
	MOVQ at+0(FP), DI
	MOVQ n+8(FP), CX
	JMP  test
next:
	MOVQ (DI), SI
	PREFETCHT0 (SI)
	ADDQ $8, DI
	DECQ CX
test:
	TESTQ CX, CX
	JGT  next
	RET

// func prefetchWrite(at *uintptr, n int)
TEXT ·prefetchWrite(SB), NOSPLIT, $0-16
	MOVQ at+0(FP), DI
	MOVQ n+8(FP), CX
	JMP  test
next:
	MOVQ (DI), SI
	BYTE $0x0f; BYTE $0x0d; BYTE $0x0e // PREFETCHW (SI), which the assembler does not know
	ADDQ $8, DI
	DECQ CX
test:
	TESTQ CX, CX
	JGT  next
	RET
