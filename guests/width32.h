/* What 32-bit code, paged or not, defines for measure.h and prove.h. */
#define SHARED(offset)	offset(%ebp)
#define XAX		%eax
#define XBX		%ebx
#define XCX		%ecx
#define XDX		%edx
#define XDI		%edi
#define XSP		%esp
#define RETURN		iretl
#define WORD		4
