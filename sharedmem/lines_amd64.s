#include "textflag.h"

// Both take four addresses at a time, and then the rest one by one.

// func prefetchRead(at *uintptr, n int)
TEXT ·prefetchRead(SB), NOSPLIT, $0-16
	MOVQ at+0(FP), DI
	MOVQ n+8(FP), CX
	SUBQ $4, CX
	JLT  rest
four:
	MOVQ (DI), R8
	MOVQ 8(DI), R9
	MOVQ 16(DI), R10
	MOVQ 24(DI), R11
	PREFETCHT0 (R8)
	PREFETCHT0 (R9)
	PREFETCHT0 (R10)
	PREFETCHT0 (R11)
	ADDQ $32, DI
	SUBQ $4, CX
	JGE  four
rest:
	ADDQ $4, CX
	JEQ  done
one:
	MOVQ (DI), R8
	PREFETCHT0 (R8)
	ADDQ $8, DI
	DECQ CX
	JNE  one
done:
	RET

// PREFETCHW (SI), which the assembler does not know.
#define PREFETCHW_SI BYTE $0x0f; BYTE $0x0d; BYTE $0x0e

// func prefetchWrite(at *uintptr, n int)
TEXT ·prefetchWrite(SB), NOSPLIT, $0-16
	MOVQ at+0(FP), DI
	MOVQ n+8(FP), CX
	SUBQ $4, CX
	JLT  rest
four:
	MOVQ (DI), SI
	PREFETCHW_SI
	MOVQ 8(DI), SI
	PREFETCHW_SI
	MOVQ 16(DI), SI
	PREFETCHW_SI
	MOVQ 24(DI), SI
	PREFETCHW_SI
	ADDQ $32, DI
	SUBQ $4, CX
	JGE  four
rest:
	ADDQ $4, CX
	JEQ  done
one:
	MOVQ (DI), SI
	PREFETCHW_SI
	ADDQ $8, DI
	DECQ CX
	JNE  one
done:
	RET

// func prefetchRange(from, last uintptr)
TEXT ·prefetchRange(SB), NOSPLIT, $0-16
	MOVQ from+0(FP), SI
	MOVQ last+8(FP), DI
	ANDQ $-64, SI
line:
	PREFETCHT1 (SI)
	ADDQ $64, SI
	CMPQ SI, DI
	JLS  line
	RET
