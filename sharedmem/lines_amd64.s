#include "textflag.h"

// Both ask for the two lines of one address after the other. When they are the
// same, the second question costs less than knowing.

// func prefetchRead(at *uintptr, n uint, from, to uint64)
TEXT ·prefetchRead(SB), NOSPLIT, $0-32
	MOVQ at+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ from+16(FP), R8
	MOVQ to+24(FP), R9
	LEAQ (DI)(CX*8), R10
	JMP  more
next:
	MOVQ (DI), SI
	PREFETCHT0 (SI)(R8*1)
	PREFETCHT0 (SI)(R9*1)
	ADDQ $8, DI
more:
	CMPQ DI, R10
	JB   next
	RET

// PREFETCHW of both places, which the assembler does not know.
#define PREFETCHW_SI_R8 BYTE $0x42; BYTE $0x0f; BYTE $0x0d; BYTE $0x0c; BYTE $0x06
#define PREFETCHW_SI_R9 BYTE $0x42; BYTE $0x0f; BYTE $0x0d; BYTE $0x0c; BYTE $0x0e

// func prefetchWrite(at *uintptr, n uint, from, to uint64)
TEXT ·prefetchWrite(SB), NOSPLIT, $0-32
	MOVQ at+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ from+16(FP), R8
	MOVQ to+24(FP), R9
	LEAQ (DI)(CX*8), R10
	JMP  more
next:
	MOVQ (DI), SI
	PREFETCHW_SI_R8
	PREFETCHW_SI_R9
	ADDQ $8, DI
more:
	CMPQ DI, R10
	JB   next
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
