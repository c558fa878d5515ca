/* bcryptprimitives.dll, which Wine 8 lacks: the one function of it that Rust's std imports. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID bytes, ULONG count);

__declspec(dllexport) BOOL WINAPI ProcessPrng(BYTE *bytes, SIZE_T count)
{
	while (count > 0) {
		ULONG now = count > 0x40000000 ? 0x40000000 : (ULONG)count;
		if (!SystemFunction036(bytes, now))
			return FALSE;
		bytes += now;
		count -= now;
	}
	return TRUE;
}
